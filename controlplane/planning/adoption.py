"""Whether a machine that others made can be taken under management, and what a move would leave."""

from dataclasses import replace

from controlplane.domain.discovery import Discovered
from controlplane.domain.finding import Finding, Severity
from controlplane.domain.instance import InstanceState
from controlplane.planning import traits
from controlplane.planning.findings import blocker
from controlplane.planning.traits import Told


def standing(found: Discovered, site: str) -> tuple[Finding, ...]:
    """A blocker stands against adopting it; a warning says what a move would do to it.

    What blocks a move and can be mended until then is a warning here.
    """
    told = Told(
        name=f"machine {found.seen.ref}",
        site=site,
        traits=found.traits,
        firmware=found.firmware,
    )
    later = [
        replace(each, severity=Severity.WARNING) if each.severity is Severity.BLOCKER else each
        for each in traits.behind(told)
    ]
    return (
        *ready(found, told),
        *traits.locked(told),
        *disks(found, told),
        *traits.machine(told),
        *later,
    )


def ready(found: Discovered, told: Told) -> list[Finding]:
    """Nothing works on it, and it is either on or off."""
    state = found.held
    if not state and (found.seen.state is not InstanceState.READY or found.seen.power is None):
        state = f"in the state {found.seen.state}, neither on nor off"
    if not state:
        return []
    evidence = f"{told.name} at {told.site} is {state}"
    return [blocker("SRC02", told.name, evidence, "wait, or start or stop it, then scan again")]


def disks(found: Discovered, told: Told) -> list[Finding]:
    """Each of its disks is a volume that the site shows, and there is one."""
    if found.seen.disks:
        return traits.disks(told, ephemeral=blocker)
    evidence = f"{told.name} has no disk that is a volume of {told.site}"
    return [
        *traits.disks(told, ephemeral=blocker),
        blocker("SRC07", told.name, evidence, "give it one, or leave it there"),
    ]
