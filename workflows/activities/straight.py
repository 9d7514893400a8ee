"""Steps that write at the target what they read at the source, at the same time."""

import contextvars
from dataclasses import asdict, dataclass, replace
from typing import Any

from temporalio import activity

from controlplane.domain.disk import BlankWriter
from controlplane.vault.nouns import CopyProgress, Into, Written
from controlplane.vault.streaming import Reached, Streamed, stream
from workflows.activities.moving import Copied, Mover, stopping
from workflows.activities.orders import At
from workflows.activities.transfer import CopyDisk


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDisk:
    """All that `export` shows, into `volume` of the stopped instance `at`.

    `blank`: what was not written to it yet reads as zeros.
    """

    at: At
    export: At
    volume: str
    disk: int
    blank: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyBeside:
    """What `copy` reads goes into `volume` of the stopped instance `at` too; `blank` as above."""

    at: At
    volume: str
    copy: CopyDisk
    blank: bool = False


class StraightActivities(Mover):
    """What is read at one site is written at another; a copy in the vault is kept, or none."""

    @activity.defn(no_thread_cancel_exception=True)
    def copy_beside(self, order: CopyBeside) -> Copied:
        """Source to vault, and the volume becomes what the source is.

        A successor goes on after the last sealed pack. What it does not read again comes from the
        vault, unless this attempt's heartbeat says that it is at the target, durable.
        """
        at, what = order.at, order.copy
        since = _written(activity.info().heartbeat_details)
        said = [asdict(since)]
        here = contextvars.copy_context()

        def reached(now: Written) -> None:
            said[:] = [asdict(now)]
            here.run(activity.heartbeat, *said)

        with self._steps.step(at.work.operation, at.step, copying=True, sole=True) as meter:
            with (
                meter.copying(),
                self._export(what.at, meter, lambda: said) as reader,
                self._writer(at, order.volume, meter, counted=True, says=lambda: said) as writer,
            ):
                copied = self._into_vault(
                    reader,
                    operation=at.work.operation,
                    what=at.step,
                    point=what.point,
                    disk=what.disk,
                    domain=what.domain,
                    base=what.base,
                    round_=what.round,
                    into=Into(
                        writer=BlankWriter(writer) if order.blank else writer,
                        since=since,
                        reached=reached,
                    ),
                    beats=False,
                )
            written = int(said[0]["bytes"])
            meter.message = (
                f"{copied.bytes_read} bytes read, {copied.bytes_stored} stored, {written} written"
            )
            return replace(copied, bytes_written=written)

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
                    BlankWriter(writer) if order.blank else writer,
                    progress=progress,
                    cancelled=activity.is_cancelled,
                    reached=reached,
                    since=since,
                )
            meter.message = f"{done.bytes_read} bytes read, {done.bytes_written} written"
            return done


def _written(details: Any) -> Written:  # noqa: ANN401  # whatever a heartbeat carried
    """What an earlier attempt of this activity had brought there."""
    if not details:
        return Written()
    said = dict(details[0])
    ranges = tuple((int(first), int(end)) for first, end in said["ranges"])
    return Written(ranges=ranges, bytes=int(said["bytes"]))


def _said(details: Any) -> Reached:  # noqa: ANN401  # whatever a heartbeat carried
    """Where an earlier attempt of this activity had come to."""
    if not details:
        return Reached()
    said = dict(details[0])
    return Reached(**{**said, "peaks": tuple(said["peaks"])})
