"""What steps that move bytes share: exports to read, progress to tell, a pulse, a way to stop."""

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from temporalio import activity
from temporalio.exceptions import CancelledError

from controlplane.domain.disk import BlockReader, BlockWriter
from controlplane.domain.errors import Conflict
from controlplane.domain.ids import OperationId, PointId
from controlplane.domain.operation import Progress
from controlplane.services.bandwidth import Bandwidth, Pace, PacedReader, PacedWriter
from controlplane.store.engine import Store
from controlplane.vault.nouns import CopyProgress, CopyStopped, Into
from controlplane.vault.vault import Vault
from drivers.contract import DiskExport, DiskImport, require
from workflows.activities.orders import At
from workflows.activities.steps import Meter, Steps
from workflows.connections import Connect

Says = Callable[[], Sequence[object]]
_BEAT = 0.1
_ATTEMPTS = 1_000_000
CALLS = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    disk: int
    expected: str
    found: str
    bytes_read: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What a copy into the vault did: sizes in bytes, the digest of the disk's whole length.

    `bytes_written` went to a target at the same time.
    """

    disk: int
    size: int
    digest: str
    bytes_read: int
    bytes_new: int
    bytes_stored: int
    attempt: int
    bytes_written: int = 0


class Mover:
    """`connect` opens a driver for a site's name; `clock` answers aware UTC times."""

    def __init__(
        self,
        *,
        store: Store,
        steps: Steps,
        connect: Connect,
        clock: Callable[[], datetime],
        vault: Vault,
        bandwidth: Bandwidth,
    ) -> None:
        self._store = store
        self._steps = steps
        self._connect = connect
        self._clock = clock
        self._vault = vault
        self._bandwidth = bandwidth

    def _progress(self, operation: OperationId, what: str, seen: CopyProgress) -> None:
        activity.heartbeat()
        self._note(operation, what, seen.done, seen.total, seen.fresh)

    def _note(self, operation: OperationId, what: str, done: int, total: int, sent: int) -> None:
        with self._store.begin() as tx:
            tx.operations.set_progress(
                Progress(
                    operation=operation,
                    what=what,
                    done=done,
                    total=total,
                    sent=sent,
                    at=self._clock(),
                )
            )

    def _into_vault(
        self,
        reader: BlockReader,
        *,
        operation: OperationId,
        what: str,
        point: UUID,
        disk: int,
        domain: str,
        base: UUID | None = None,
        round_: int = 0,
        into: Into | None = None,
        beats: bool = True,
    ) -> Copied:
        """Each progress is a heartbeat too, unless something else `beats` and says more."""
        # None of an earlier round counts as later than one of this.
        attempt = round_ * _ATTEMPTS + activity.info().attempt

        def progress(seen: CopyProgress) -> None:
            if beats:
                activity.heartbeat()
            self._note(operation, what, seen.done, seen.total, seen.fresh)

        with stopping():
            done = self._vault.copy(
                reader,
                point=PointId(point),
                disk=disk,
                domain=domain,
                subject=what,
                attempt=attempt,
                progress=progress,
                cancelled=activity.is_cancelled,
                base=None if base is None else PointId(base),
                into=into,
            )
        return Copied(
            disk=disk,
            size=done.size,
            digest=done.digest,
            bytes_read=done.bytes_read,
            bytes_new=done.bytes_new,
            bytes_stored=done.bytes_stored,
            attempt=attempt,
        )

    @contextmanager
    def _export(self, at: At, meter: Meter, says: Says = tuple) -> Iterator[BlockReader]:
        with self._connect(at.site) as driver:
            with calling(meter, says):
                reader = require(driver, DiskExport).open_export(at.work.tag(at.artefact))
            with closing(reader), beating(says=says, unless=meter.hangs) as told:
                yield PacedReader(reader, self._pace(at, told))

    @contextmanager
    def _writer(
        self, at: At, volume: str, meter: Meter, *, counted: bool = False, says: Says = tuple
    ) -> Iterator[BlockWriter]:
        """A writer to `volume` of the stopped instance `at`, for the newest attempt of a sole step.

        A writer that an earlier attempt left is revoked when this one opens its own; an earlier
        attempt that wakes late opens none, or writes nothing with it. Its bytes count for the
        operation's limit unless they are `counted` already.
        """
        tag = at.work.tag(at.artefact)
        with self._connect(at.site) as driver:
            target = require(driver, DiskImport)
            self._steps.claim(at.work.operation, at.step, meter)
            with calling(meter, says):
                writer = target.open_import(tag, volume)
            with closing(writer), beating(says=says, unless=meter.hangs) as told:
                self._claimed(target, at, volume, meter)
                yield PacedWriter(writer, self._pace(at, told, again=counted))
            with calling(meter, says):
                target.close_import(tag, volume)

    def _claimed(self, target: DiskImport, at: At, volume: str, meter: Meter) -> None:
        """Still the newest, now that the writer is open; else it goes without a byte."""
        try:
            self._steps.claim(at.work.operation, at.step, meter)
        except Conflict:
            if not self._steps.runs(at.work.operation, at.step):
                # Of a successor that is under way this might be the writer.
                target.close_import(at.work.tag(at.artefact), volume)
            raise

    def _pace(self, at: At, told: threading.Event, *, again: bool = False) -> Pace:
        return Pace(self._bandwidth, at.site, at.work.operation, told, again=again)


def beat() -> None:
    activity.heartbeat()
    if activity.is_cancelled():
        raise CancelledError("told to stop")


@contextmanager
def stopping() -> Iterator[None]:
    """A copy that was told to stop ends as a cancelled activity."""
    try:
        yield
    except CopyStopped as stopped:
        raise CancelledError("the copy was told to stop") from stopped


@contextmanager
def calling(meter: Meter, says: Says = tuple) -> Iterator[None]:
    """A call to a provider in the middle of copying.

    A site that many ask may take longer than a pulse lasts; what takes longer than `CALLS` hangs,
    and is given to another worker.
    """
    with meter.calling(within=CALLS), beating(says=says, unless=meter.hangs):
        yield


@contextmanager
def beating(
    says: Says = tuple, unless: Callable[[], bool] = lambda: False
) -> Iterator[threading.Event]:
    """Heartbeats from a thread of its own; the event is set when the activity is told to stop.

    Each carries what it `says` for a successor; saying nothing takes back what was said before.
    None comes while it is told `unless`.
    """
    over = threading.Event()
    told = threading.Event()

    def go_on() -> None:
        while not over.wait(_BEAT):
            if not unless():
                activity.heartbeat(*says())
            if activity.is_cancelled():
                told.set()

    thread = threading.Thread(target=contextvars.copy_context().run, args=(go_on,), daemon=True)
    thread.start()
    try:
        yield told
    finally:
        over.set()
        thread.join()
