"""What steps at a site share: a driver for one call, and the records of what it makes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.disk import SnapshotSeen
from controlplane.domain.errors import NotFound, Unavailable, Unsupported
from controlplane.domain.ids import SiteName
from controlplane.domain.instance import InstanceSeen
from controlplane.domain.owner import OwnerTag
from controlplane.store.engine import Store
from drivers.contract import Driver, Instances, require
from workflows.activities.orders import At
from workflows.activities.steps import Meter, Steps, waited_so_far
from workflows.connections import Connect
from workflows.failures import NotYet

COPYING_FOR = timedelta(minutes=5)
"""A site that is seen to copy is waited for anew after so long; half of what one is given."""

T = TypeVar("T")
_WAY = (
    ArtefactState.INTENDED,
    ArtefactState.ALLOCATED,
    ArtefactState.COPYING,
    ArtefactState.COPIED,
    ArtefactState.ATTACHED,
    ArtefactState.RETAINED,
    ArtefactState.RELEASED,
)


class SiteSteps:
    """`connect` opens a driver for a site's name; `clock` answers aware UTC times."""

    def __init__(
        self,
        store: Store,
        steps: Steps,
        connect: Connect,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._steps = steps
        self._connect = connect
        self._clock = clock

    @contextmanager
    def _calling(self, site: SiteName, meter: Meter) -> Iterator[Driver]:
        with meter.calling(), self._connect(site) as driver:
            yield driver

    @contextmanager
    def _effect(self, at: At) -> Iterator[Driver]:
        """A step that is one contract call and nothing else."""
        with (
            self._steps.step(at.work.operation, at.step) as meter,
            self._calling(at.site, meter) as driver,
        ):
            yield driver

    def _intend(self, at: At, kind: ArtefactKind, *, size: int = 0) -> Artefact:
        with self._store.begin() as tx:
            return tx.artefacts.intend(
                Artefact(
                    id=at.artefact,
                    kind=kind,
                    site=at.site,
                    instance=at.work.instance,
                    operation=at.work.operation,
                    epoch=at.work.epoch,
                    state=ArtefactState.INTENDED,
                    size=size,
                    created_at=self._clock(),
                )
            )

    def _on_record(self, at: At) -> bool:
        """False when the attempt before died before it could write its intention down."""
        with self._store.read() as tx:
            return tx.artefacts.find(at.artefact) is not None

    def _became(self, at: At, state: ArtefactState, *, ref: str | None = None) -> None:
        """Further on its way; a step that is repeated does not take it back."""
        with self._store.begin() as tx:
            now = tx.artefacts.get(at.artefact).state
            further = _WAY.index(now) < _WAY.index(state)
            tx.artefacts.set_state(at.artefact, state if further else now, ref=ref)

    @contextmanager
    def _never_made(self, at: At, delete: Callable[[OwnerTag], None]) -> Iterator[None]:
        """What was accepted and never came to be, as when its site died, is no copy to keep."""
        try:
            yield
        except NotFound:
            delete(at.work.tag(at.artefact))
            self._became(at, ArtefactState.RELEASED)
            raise

    def _anchor_of(self, at: At) -> str | None:
        with self._store.read() as tx:
            artefact = tx.artefacts.find(at.artefact)
        return artefact.anchor if artefact else None

    def _look(self, driver: Driver, at: At) -> Answer[InstanceSeen]:
        return require(driver, Instances).find(at.work.tag(at.artefact), self._anchor_of(at))


def made(driver: Driver, answer: Answer[T], what: str) -> T:
    """As `known`, of what was just asked for: a site may take its settle time to show it."""
    settle = timedelta(seconds=driver.limits.settle_seconds)
    if isinstance(answer, Absent) and waited_so_far() < settle:
        raise NotYet(f"{what} is not shown yet")
    return known(answer, what)


def taken(snapshot: SnapshotSeen, at: At) -> SnapshotSeen:
    """The snapshot, where disks can be read from it by now; Unsupported when they never can be.

    One that is not ready while its site copies for it is given, too, before patience ends with it.
    """
    if snapshot.failed:
        raise Unsupported(
            f"{at.site} could not take its snapshot ({snapshot.failed}): look there, then ask"
            " again",
            detail=snapshot.failed,
        )
    if snapshot.copying and waited_so_far() >= COPYING_FOR:
        return snapshot
    if not snapshot.ready:
        raise NotYet(f"{at.site} has not taken its snapshot yet: look there, then ask again")
    return snapshot


def known(answer: Answer[T], what: str) -> T:
    """What was seen; NotFound for absence, Unavailable for ignorance."""
    if isinstance(answer, Seen):
        return answer.it
    if isinstance(answer, Absent):
        raise NotFound(f"{what} is not there any more: look at the site, then ask again")
    raise Unavailable(f"{what} cannot be seen now ({answer.why}): ask again")
