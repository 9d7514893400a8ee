"""One transaction, with a repository for each noun."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from sqlalchemy.orm import Session

from controlplane.store.admissions import Admissions
from controlplane.store.artefacts import Artefacts
from controlplane.store.audit import Audit
from controlplane.store.credentials import Credentials
from controlplane.store.dump import Rows, clear, count_on, dump, is_empty, load
from controlplane.store.events import Events
from controlplane.store.figures import Figures, figures
from controlplane.store.identity import Identity
from controlplane.store.keys import Keys
from controlplane.store.operations import Operations
from controlplane.store.orphans import Orphans
from controlplane.store.outbox import Outbox
from controlplane.store.placements import Leases, Placements
from controlplane.store.resources import Resources
from controlplane.store.served import ServedImages
from controlplane.store.settings import Settings
from controlplane.store.site_errors import SiteErrors
from controlplane.store.vault import Vault


class Tx:
    """Valid inside the `with` block that gave it; used by one thread."""

    def __init__(self, session: Session, clock: Callable[[], datetime]) -> None:
        self.settings = Settings(session)
        self.events = Events(session, clock)
        self.resources = Resources(session, self.events)
        self.operations = Operations(session, self.events)
        self.admissions = Admissions(session, self.settings)
        self.outbox = Outbox(session)
        self.leases = Leases(session, self.operations)
        self.placements = Placements(session, self.leases, self.events)
        self.artefacts = Artefacts(session, self.events)
        self.orphans = Orphans(session)
        self.served = ServedImages(session)
        self.site_errors = SiteErrors(session)
        self.credentials = Credentials(session)
        self.keys = Keys(session)
        self.identity = Identity(session, clock)
        self.audit = Audit(session, self.events)
        self.vault = Vault(session)
        self._session = session

    def figures(self) -> Figures:
        """Counted over all rows."""
        return figures(self._session, self.events)

    def dump(self) -> Iterator[tuple[str, list[dict[str, object]]]]:
        """Every row of every table as plain JSON, some of a table at a time."""
        return dump(self._session)

    def load(self, backup: Iterable[tuple[str, Rows]]) -> None:
        """What `dump` gave replaces all there is. Integrity when it does not fit this schema."""
        clear(self._session)
        for name, rows in backup:
            load(self._session, name, rows)
        count_on(self._session)
        self._session.expire_all()

    def is_empty(self) -> bool:
        """Nobody has used this database yet."""
        return is_empty(self._session)
