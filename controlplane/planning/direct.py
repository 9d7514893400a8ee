"""Whether a move can go straight from source to target, and what it does without."""

from controlplane.domain.finding import Finding
from controlplane.domain.plan import AT_ONCE, PassPolicy
from controlplane.domain.site import Capability, SiteFacts
from controlplane.planning.findings import blocker, told
from controlplane.planning.warm import WarmWish

_BY_VAULT = "let it go by way of the vault (--method cold, or warm)"


def policy(target: SiteFacts, wish: WarmWish) -> tuple[PassPolicy, list[Finding]]:
    """One pass of the stopped source into disks that the target made empty.

    That the source can be read stands with SRC01, as for every move.
    """
    found = without(target)
    if Capability.DISK_IMPORT not in target.capabilities:
        found.append(
            blocker(
                "PTH09",
                target.site,
                f"{target.site} takes disks in only as whole images: nothing can be streamed into"
                " them",
                f"{_BY_VAULT}, or choose a site whose disks can be written to",
            )
        )
    if wish.cutover != AT_ONCE:
        found.append(
            blocker(
                "PTH09",
                "cutover",
                "a direct move stops its source at once: passes while it runs are proven against"
                " recovery points, which it does not make",
                f"leave the cutover out, or {_BY_VAULT}",
            )
        )
    return PassPolicy(direct=True), found


def without(target: SiteFacts) -> list[Finding]:
    """What nobody has afterwards."""
    return [
        told(
            "PTH10",
            target.site,
            "nothing of it is kept in the vault: no recovery point stays of this move, a retry and"
            " the way back copy everything anew",
        )
    ]
