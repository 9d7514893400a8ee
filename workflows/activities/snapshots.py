"""Steps of a warm move at a site: snapshots of what runs, and writers of what does not."""

from temporalio import activity

from controlplane.domain.artefact import ArtefactKind, ArtefactState
from controlplane.domain.disk import SnapshotSeen
from drivers.contract import DiskImport, Pausing, Snapshots, require
from workflows.activities.atsite import SiteSteps, made, taken
from workflows.activities.orders import At, CloseImport, MakeSnapshot, Pause


class SnapshotActivities(SiteSteps):
    """Each makes one contract call."""

    @activity.defn(no_thread_cancel_exception=True)
    def close_import(self, order: CloseImport) -> None:
        """Whoever still writes to the volume is cut off; absent is fine."""
        at = order.at
        with self._effect(at) as driver:
            self._steps.revoke(at.work.operation, *((order.writer,) if order.writer else ()))
            require(driver, DiskImport).close_import(at.work.tag(at.artefact), order.volume)

    @activity.defn(no_thread_cancel_exception=True)
    def pause(self, order: Pause) -> bool | None:
        """Nothing of the instance writes any more, for so long at most.

        Whether its file systems were frozen before; of earlier versions that is not known.
        """
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                frozen = require(driver, Pausing).pause(at.work.tag(at.artefact), order.within)
            meter.message = (
                "file systems frozen by the guest's agent"
                if frozen
                else "no agent froze the file systems: as after a loss of power"
            )
            return frozen

    @activity.defn(no_thread_cancel_exception=True)
    def keep_paused(self, at: At) -> None:
        """Conflict when it went on meanwhile: what was copied is not its last state."""
        with self._effect(at) as driver:
            require(driver, Pausing).keep_paused(at.work.tag(at.artefact))

    @activity.defn(no_thread_cancel_exception=True)
    def resume(self, at: At) -> None:
        with self._effect(at) as driver:
            require(driver, Pausing).resume(at.work.tag(at.artefact))

    @activity.defn(no_thread_cancel_exception=True)
    def create_snapshot(self, order: MakeSnapshot) -> None:
        at = order.at
        with self._steps.step(at.work.operation, at.step) as meter:
            self._intend(at, ArtefactKind.SNAPSHOT)
            with self._store.read() as tx:
                instance = tx.artefacts.get(order.of).ref
            with self._calling(at.site, meter) as driver:
                ref = require(driver, Snapshots).create_snapshot(
                    at.work.tag(at.artefact), instance or ""
                )
            self._became(at, ArtefactState.ALLOCATED, ref=ref)

    @activity.defn(no_thread_cancel_exception=True)
    def wait_snapshot(self, at: At) -> SnapshotSeen:
        """The snapshot, once disks can be read from it; not ready: its site copies for it still."""
        with self._steps.step(at.work.operation, at.step) as meter:
            with self._calling(at.site, meter) as driver:
                answer = require(driver, Snapshots).find_snapshot(at.work.tag(at.artefact))
            seen = taken(made(driver, answer, f"snapshot at {at.site}"), at)
            if seen.ready:
                self._became(at, ArtefactState.ALLOCATED, ref=seen.ref)
            return seen
