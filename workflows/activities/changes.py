"""Steps that bring a target from one recovery point to the next."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from uuid import UUID

from temporalio import activity

from controlplane.domain.disk import Extent, read_each
from controlplane.domain.errors import Integrity
from controlplane.domain.ids import PointId
from controlplane.vault.bringing import bring, read_ahead, runs
from controlplane.vault.reading import PointReader
from controlplane.vault.stride import Stride
from workflows.activities.moving import Mover, Proof, beat, beating, stopping
from workflows.activities.orders import At


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteChanges:
    """Write what differs between two points to `volume` of the stopped instance `at`."""

    at: At
    volume: str
    disk: int
    base: UUID
    point: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveChanges:
    """Read back, from the export `at`, what differs between two points, and compare."""

    at: At
    disk: int
    base: UUID
    point: UUID


class ChangeActivities(Mover):
    """A target that was proven to hold one point, and gets what the next one changed."""

    @activity.defn(no_thread_cancel_exception=True)
    def write_changes(self, order: WriteChanges) -> int:
        """The volume becomes what the point is, from what `base` was; bytes written."""
        at = order.at
        with self._steps.step(at.work.operation, at.step, copying=True, sole=True) as meter:
            with (
                meter.copying(),
                self._compared(order.base, order.point, order.disk) as (disk, changes),
                self._writer(at, order.volume, meter) as writer,
                stopping(),
            ):
                bring(
                    disk,
                    changes,
                    writer,
                    progress=lambda done, total: self._brought(at, done, total),
                    cancelled=activity.is_cancelled,
                )
            written = sum(e.length for e in changes)
            meter.message = f"{written} bytes changed"
            return written

    def _brought(self, at: At, done: int, total: int) -> None:
        activity.heartbeat()
        self._note(at.work.operation, at.step, done, total, done)

    @contextmanager
    def _compared(
        self, base: UUID, point: UUID, disk: int
    ) -> Iterator[tuple[PointReader, tuple[Extent, ...]]]:
        with (
            closing(self._vault.open(PointId(base), disk)) as before,
            closing(self._vault.open(PointId(point), disk)) as after,
        ):
            with beating():
                changes = tuple(after.changes_since(before))
            yield after, changes

    def _compare(
        self,
        order: ProveChanges,
        parts: Iterable[tuple[int, int]],
        found: Iterable[bytes],
        expected: Iterable[bytes],
    ) -> None:
        for (offset, length), there, ours in zip(parts, found, expected, strict=True):
            if there != ours:
                raise Integrity(
                    f"disk {order.disk} at {order.at.site} is not what the source had"
                    f" in bytes {offset} to {offset + length}: the move stops here",
                    reason="digest",
                )

    @activity.defn(no_thread_cancel_exception=True)
    def prove_changes(self, order: ProveChanges) -> Proof:
        """What was equal to `base` and got its changes holds what the point holds, or Integrity."""
        at = order.at
        with self._steps.step(at.work.operation, at.step, copying=True) as meter:
            with (
                meter.copying(),
                self._export(at, meter) as reader,
                self._compared(order.base, order.point, order.disk) as (disk, changes),
            ):
                stride = Stride()
                groups = read_ahead(disk, stride.groups(runs(changes)))
                with closing(groups):
                    for group, reading in groups:
                        beat()
                        with stride.taken(sum(length for _, length in group)):
                            found = read_each(reader, group)
                        self._compare(order, group, found, reading.result())
                expected = disk.digest
            return Proof(
                disk=order.disk,
                expected=expected,
                found=expected,
                bytes_read=sum(e.length for e in changes),
            )
