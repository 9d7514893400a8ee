"""One transaction, with a repository for each noun."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from controlplane.store.admissions import Admissions
from controlplane.store.artefacts import Artefacts
from controlplane.store.audit import Audit
from controlplane.store.credentials import Credentials
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
        self.credentials = Credentials(session)
        self.keys = Keys(session)
        self.identity = Identity(session, clock)
        self.audit = Audit(session, self.events)
        self.vault = Vault(session)
        self._session = session

    def figures(self) -> Figures:
        """Counted over all rows."""
        return figures(self._session, self.events)
