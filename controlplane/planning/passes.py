"""Whether another copy pass is worth it, and when the rest fits the budget."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from controlplane.domain.plan import PassPolicy


class Next(StrEnum):
    """What follows a finished pass."""

    FINAL = "final"
    PASS = "pass"  # noqa: S105  # a copy pass
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class PassDone:
    """What was measured so far. Bytes to be read in the next pass, and the rate of reading."""

    passes: int
    source_stopped: bool
    next_bytes: int
    bytes_per_second: float


def next_pass(policy: PassPolicy, done: PassDone) -> Next:
    """The next step of the copy under `policy`; total and deterministic."""
    if done.source_stopped:
        return Next.DONE
    if not policy.warm or done.passes >= policy.passes_max:
        return Next.FINAL
    needed = timedelta(seconds=done.next_bytes / max(done.bytes_per_second, 1.0))
    if policy.budget is not None and needed <= policy.budget:
        return Next.FINAL
    return Next.PASS
