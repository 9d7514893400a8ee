"""Whether a copy that stayed at the target is brought up to date instead of made anew."""

from dataclasses import dataclass

from controlplane.domain.finding import Finding
from controlplane.domain.ids import ArtefactId, PointId
from controlplane.domain.instance import InstanceSeen, InstanceState, Power
from controlplane.domain.plan import DiskPlan, NicPlan, Reuse
from controlplane.domain.site import Capability, SiteFacts
from controlplane.planning.findings import told


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A retained copy at the target: `holds` is the point that its disks equalled when it was left.

    `stands`: the vault still has that point. `seen` is None when the site does not show the copy,
    with its words in `unseen_why`.
    """

    copy: ArtefactId
    was_home: bool
    holds: PointId | None
    stands: bool
    seen: InstanceSeen | None
    unseen_why: str = ""

    @property
    def name(self) -> str:
        return "the old copy" if self.was_home else "the copy of the earlier attempt"


def reuse(
    target: SiteFacts,
    kept: Kept | None,
    disks: tuple[DiskPlan, ...],
    nics: tuple[NicPlan, ...],
    *,
    direct: bool = False,
) -> tuple[Reuse | None, list[Finding]]:
    """The copy to go on from, and what people are told of it; None: a full import."""
    if kept is None:
        return None, []
    why = (
        "a direct move makes no recovery point to compare it with"
        if direct
        else _obstacle(target, kept, disks, nics)
    )
    if why or kept.seen is None or kept.holds is None:
        text = f"{kept.name} at {target.site} is not used, everything is sent: {why}"
        return None, [told("RET06", target.site, text)]
    again = Reuse(
        copy=kept.copy,
        base=kept.holds,
        volumes=tuple(disk.volume for disk in kept.seen.disks),
        was_home=kept.was_home,
    )
    text = f"{kept.name} at {target.site} is used: only changes are sent"
    return again, [told("RET05", target.site, text)]


def _obstacle(  # noqa: PLR0911  # one line a reason
    target: SiteFacts, kept: Kept, disks: tuple[DiskPlan, ...], nics: tuple[NicPlan, ...]
) -> str:
    """Why it cannot be gone on from, in words; empty when it can."""
    if Capability.DISK_IMPORT not in target.capabilities:
        return "the site takes disks in only as whole images"
    if kept.holds is None:
        return "which state its disks hold is not known"
    if not kept.stands:
        return "the recovery point that it equals is not in the vault any more"
    seen = kept.seen
    if seen is None:
        return kept.unseen_why
    if seen.state is not InstanceState.READY or seen.power is not Power.OFF:
        return "it is not powered off and ready"
    if [d.size for d in seen.disks] != [d.target_size for d in disks]:
        return "its disks have other sizes"
    if len(seen.nics) != len(nics) or not all(
        has.network == wish.network
        and (wish.mac is None or has.mac.lower() == wish.mac.lower())
        and (wish.address is None or has.address in {None, wish.address})
        for has, wish in zip(seen.nics, nics, strict=True)
    ):
        return "its nics are not those that are wished"
    return ""
