"""What is known and what is wished when a move is planned."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from controlplane.domain.ids import ArtefactId, InstanceId
from controlplane.domain.instance import Firmware, InstanceSeen, Size, Traits
from controlplane.domain.plan import AT_ONCE, AcceptanceCheck, Cutover, Method
from controlplane.domain.site import SiteFacts
from controlplane.planning.reuse import Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Bytes of disk per second seen on this pair of sites, and when; None before the first move."""

    bytes_per_second: float | None = None
    seen: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveFacts:
    """Everything that the decision needs, gathered beforehand.

    `seen` is None when the source could not show the instance, with its words in `unseen_why`.
    `busy_with` names another operation that works on the instance; `kept` is what an earlier move
    left of it at the target. `agent` tells whether the guest's agent answers, `wished_size` what
    it was made for; None: not known.
    `traits` and `proof` (what shows that the guest booted, of one that runs) are None where they
    could not be looked for, with the reason beside them. `again`: a warm move looks again before
    its source is stopped; `made`: its target stands by then. `now` is aware.
    """

    instance: InstanceId
    name: str
    source: SiteFacts
    target: SiteFacts
    copy: ArtefactId
    seen: InstanceSeen | None
    unseen_why: str = ""
    firmware: Firmware = Firmware.BIOS
    wished_size: Size | None = None
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""
    rate: Rate = Rate()
    bandwidth: float | None = None
    busy_with: str = ""
    kept: Kept | None = None
    agent: bool | None = None
    traits: Traits | None = None
    traits_why: str = ""
    proof: str | None = None
    proof_why: str = ""
    again: bool = False
    made: bool = False
    now: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """A finding that somebody with the right took upon themselves."""

    id: str
    reason: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveWish:
    """What was asked. `sku` forces a size of the target; durations bound the run.

    `networks` are pairs of a source's and a target's network; nics on those in `readdressed` (of
    the source) get new addresses. `waivers` are ids of findings with the reason why each may be.
    """

    sku: str | None = None
    networks: tuple[tuple[str, str], ...] = ()
    readdressed: frozenset[str] = frozenset()
    checks: tuple[AcceptanceCheck, ...] = ()
    deadline: timedelta = timedelta(hours=12)
    retain: timedelta = timedelta(days=7)
    max_downtime: timedelta | None = None
    method: Method | None = Method.COLD
    cutover: Cutover = AT_ONCE
    waivers: tuple[Waiver, ...] = ()
