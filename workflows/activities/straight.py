"""The step of a direct move: a disk goes from the source straight into the target's."""

import contextvars
from dataclasses import asdict, dataclass
from typing import Any

from temporalio import activity

from controlplane.vault.nouns import CopyProgress
from controlplane.vault.streaming import Reached, Streamed, stream
from workflows.activities.moving import Mover, stopping
from workflows.activities.orders import At


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDisk:
    """All that `export` shows, into `volume` of the stopped instance `at`."""

    at: At
    export: At
    volume: str
    disk: int


class StraightActivities(Mover):
    """What is read at one site is written at another, and kept nowhere."""

    @activity.defn(no_thread_cancel_exception=True)
    def stream_disk(self, order: StreamDisk) -> Streamed:
        """The volume becomes what the source is; the digest of what was read.

        A successor goes on where this attempt's heartbeat says that everything is durable. What it
        writes again is the same, and all of it is read back for the proof.
        """
        at = order.at
        since = _said(activity.info().heartbeat_details)
        said = [asdict(since)]
        here = contextvars.copy_context()

        def reached(now: Reached) -> None:
            said[:] = [asdict(now)]
            here.run(activity.heartbeat, *said)

        def progress(seen: CopyProgress) -> None:
            self._note(at.work.operation, at.step, seen.done, seen.total, seen.fresh)

        with self._steps.step(at.work.operation, at.step, copying=True, sole=True) as meter:
            with (
                meter.copying(),
                self._export(order.export, meter, lambda: said) as reader,
                self._writer(at, order.volume, meter, counted=True, says=lambda: said) as writer,
                stopping(),
            ):
                done = stream(
                    reader,
                    writer,
                    progress=progress,
                    cancelled=activity.is_cancelled,
                    reached=reached,
                    since=since,
                )
            meter.message = f"{done.bytes_read} bytes read, {done.bytes_written} written"
            return done


def _said(details: Any) -> Reached:  # noqa: ANN401  # whatever a heartbeat carried
    """Where an earlier attempt of this activity had come to."""
    if not details:
        return Reached()
    said = dict(details[0])
    return Reached(**{**said, "peaks": tuple(said["peaks"])})
