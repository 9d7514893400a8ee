"""Whether another copy pass is worth it, and when the source may be stopped for the last one."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from controlplane.domain.operation import Decision
from controlplane.domain.plan import Cutover, PassPolicy

HELD_PASS = timedelta(minutes=10)
TURN = timedelta(seconds=10)
STOP_AND_START_SECONDS = 10.0
_WORTH_IT = 0.8
COPYING = "another pass is worth it"


class Next(StrEnum):
    """What follows a finished pass. STALLED: changes come faster than they are copied."""

    FINAL = "final"
    PASS = "pass"  # noqa: S105  # a copy pass
    STALLED = "stalled"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassDone:
    """One pass while the source ran: bytes read in `reading` seconds.

    `bringing` are the seconds in which they were written to the target and read back (0 for the
    first); `whole` those from its snapshot to its point, export and commit too; `since` those from
    the snapshot before to its own, in which what it read had changed (0 for the first); `age` those
    from its own to now, in which as much changes again.
    """

    read: int
    reading: float
    since: float
    age: float
    whole: float = 0.0
    bringing: float = 0.0


def rest(policy: PassPolicy, size: int, done: Sequence[PassDone]) -> timedelta | None:
    """How long the next pass would take for its bytes; None before that can be told.

    From what was measured: to read them and, where the target has its disks already, to write them
    there and read them back.
    """
    if not done:
        return None
    last = done[-1]
    if not policy.tracked:
        return timedelta(seconds=last.reading)
    if last.since <= 0:
        return None
    # What is scattered is copied slower than the whole was: only passes of changes tell the pace.
    changes = done[1:] or done
    seconds = sum(p.reading + p.bringing for p in changes)
    changed = min(last.read / last.since * last.age, size)
    return timedelta(seconds=changed * seconds / max(sum(p.read for p in changes), 1))


def downtime(policy: PassPolicy, size: int, done: Sequence[PassDone]) -> timedelta | None:
    """How long the instance would be down, from what its passes took; None before that is known.

    Stopping, booting and switching are put at what they commonly take; where the target takes only
    whole images, their import and proof at twice the reading.
    """
    needed = rest(policy, size, done)
    if needed is None:
        return None
    last = done[-1]
    reading = sum(p.reading for p in done) / len(done)
    imported = 0.0 if policy.seeded else 2 * max(done[0].reading, reading)
    around = max(last.whole - last.reading, 0.0)
    return needed + timedelta(seconds=around + imported + STOP_AND_START_SECONDS)


def next_pass(policy: PassPolicy, size: int, done: Sequence[PassDone]) -> Next:
    """The next step of a warm copy of `size` bytes under `policy`; total and deterministic."""
    needed = rest(policy, size, done)
    if needed is not None and (policy.budget is None or needed <= policy.budget):
        return Next.FINAL
    if len(done) < policy.passes_max and _shrinks(done):
        return Next.PASS
    if needed is not None and policy.limit is not None and needed > policy.limit:
        return Next.STALLED
    return Next.FINAL


def _shrinks(done: Sequence[PassDone]) -> bool:
    """Whether the last pass of changes read less than the one before: another is worth it."""
    changes = done[1:]
    return not changes[1:] or changes[-1].read < _WORTH_IT * changes[-2].read


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Whether the source may be stopped now; else why not, and after how long to look again.

    `missed`: it never may any more. `turn`: only others are in the way.
    """

    open: bool
    why: str = ""
    look_again: timedelta = HELD_PASS
    missed: bool = False
    turn: bool = False


def gate(policy: PassPolicy, following: Next, decision: Decision, now: datetime) -> Gate:
    """What stands before the cutover once no pass is needed. A decision opens all but time."""
    cutover = policy.cutover
    if cutover.not_after is not None and now > cutover.not_after:
        return Gate(open=False, why="the window for the cutover has passed", missed=True)
    if cutover.not_before is not None and now < cutover.not_before:
        left = cutover.not_before - now
        why = f"the cutover may begin at {cutover.not_before:%d %b %Y %H:%M %Z}"
        return Gate(open=False, why=why, look_again=min(left, HELD_PASS))
    why = _objection(cutover, following, decision)
    return Gate(open=not why, why=why, look_again=HELD_PASS)


def in_turn(answer: Gate, decision: Decision, others: int, most: int) -> Gate:
    """Behind `most` others that are being cut over, unless a person says now.

    Each would make all of them be down longer: what they wait for then is each other.
    """
    if not answer.open or decision is Decision.CUTOVER or others < most:
        return answer
    why = (
        f"{others} other moves are being cut over, and {most} may be at once"
        " (FEDCTL_CUTOVERS_AT_ONCE): it follows when one of them is done"
    )
    return Gate(open=False, why=why, look_again=TURN, turn=True)


def _objection(cutover: Cutover, following: Next, decision: Decision) -> str:
    if following is Next.PASS:
        return COPYING
    if decision is Decision.CUTOVER:
        return ""
    if decision is Decision.HOLD:
        return "it is on hold: resume it, or cut over"
    if cutover.manual:
        return "everything is copied: cut over when you wish"
    if following is Next.STALLED:
        return (
            "the guest changes its disks faster than they are copied: cut over all the same, with"
            " more downtime than wished, or cancel"
        )
    return ""
