"""What an instance has at its source that another site cannot give it, or that holds it there."""

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.domain.finding import Finding
from controlplane.domain.instance import Firmware, Trait, Traits
from controlplane.domain.site import Capability
from controlplane.planning.facts import MoveFacts
from controlplane.planning.findings import blocker, unseen, warning

Verdict = Callable[[str, str, str, str], Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a site tells of one instance; of what it does not, `why`."""

    name: str
    site: str
    traits: Traits | None
    why: str = ""
    firmware: Firmware | None = None


def kept(facts: MoveFacts, *, warm: bool) -> list[Finding]:
    """Every question that the traits answer."""
    if Capability.INSTANCES not in facts.source.capabilities:
        return []
    told = Told(
        name=facts.name,
        site=facts.source.site,
        traits=facts.traits,
        why=facts.traits_why or f"{facts.source.site} was not asked",
        firmware=facts.firmware if facts.seen is not None else None,
    )
    return [*locked(told), *disks(told), *machine(told), *behind(told, warm=warm)]


def behind(told: Told, *, warm: bool = False) -> list[Finding]:
    """What stays behind, or does not work elsewhere, though its bytes arrive."""
    return [
        *protected(told),
        *snapshots(told, warm=warm),
        *devices(told),
        *trust(told),
        *placement(told),
    ]


def locked(told: Told) -> list[Finding]:
    remedy = "wait for what holds it, or have it unlocked at the site"
    return _found(told, "SRC02", {Trait.LOCKED: blocker}, remedy)


def protected(told: Told) -> list[Finding]:
    remedy = (
        "take the protection away at the site, or waive it: the old copy cannot be removed then"
    )
    return _found(told, "SRC03", {Trait.PROTECTED: blocker}, remedy)


def snapshots(told: Told, *, warm: bool) -> list[Finding]:
    """Those of others stay behind; a warm move adds to their chain."""
    remedy = "remove them at the site, or waive it: they stay with the old copy and go with it"
    return _found(told, "SRC04", {Trait.SNAPSHOTS: blocker if warm else warning}, remedy)


def disks(told: Told, *, ephemeral: Verdict = warning) -> list[Finding]:
    """One that others write to as well, such as are no volumes of the site, and what it leaves."""
    lost = "detach it, or copy what is on it to a volume first"
    left: dict[Trait, Verdict] = dict.fromkeys(
        (Trait.SWAP_DISK, Trait.DETACHED_DISK, Trait.DISC), warning
    )
    verdicts: dict[Trait, Verdict] = {
        **dict.fromkeys(
            (
                Trait.SHARED_DISK,
                Trait.RAW_DISK,
                Trait.HIDDEN_DISK,
                Trait.ENCRYPTED_DISK,
                Trait.READ_ONLY_DISK,
            ),
            blocker,
        ),
        Trait.EPHEMERAL_DISK: ephemeral,
    }
    found = _found(told, "SRC07", verdicts, lost)
    if told.traits is not None:
        found += _found(told, "SRC07", left, "see that the guest does without it: it stays behind")
    return found


def machine(told: Told) -> list[Finding]:
    """Of a kind that only its own provider runs."""
    return _found(told, "TGT04", {Trait.MACHINE: blocker}, "leave it there: no other kind runs it")


def devices(told: Told) -> list[Finding]:
    remedy = "see that the guest does without it: it stays behind"
    return _found(told, "SRC08", {Trait.DEVICE: warning}, remedy)


def trust(told: Told) -> list[Finding]:
    """What is sealed in a vTPM stays behind; secure boot is not set up at the target."""
    verdicts: dict[Trait, Verdict] = {Trait.TPM: blocker, Trait.SECURE_BOOT: warning}
    found = _found(told, "SRC09", verdicts, "have the guest's keys at hand outside of it")
    if told.firmware is Firmware.UEFI:
        found.append(
            warning(
                "SRC09",
                told.name,
                "the variables of its UEFI firmware stay behind: it boots by the fallback path",
                "see that its disk has EFI/BOOT/BOOTX64.EFI",
            )
        )
    return found


def placement(told: Told) -> list[Finding]:
    remedy = "set it up at the target after the move, if it is needed there"
    return _found(told, "SRC10", {Trait.PLACEMENT: warning}, remedy)


def _found(
    told: Told,
    id: str,  # noqa: A002  # the field's name
    verdicts: dict[Trait, Verdict],
    remedy: str,
) -> list[Finding]:
    """What was found of these traits, each in the site's words, and which could not be seen."""
    if told.traits is None:
        return [unseen(id, told.name, told.why)]
    found = [
        verdicts[each.trait](id, told.name, f"{told.name} has at {told.site}: {each.words}", remedy)
        for each in told.traits.found
        if each.trait in verdicts
    ]
    hidden = sorted(trait for trait in verdicts if trait not in told.traits.looked)
    if hidden:
        found.append(unseen(id, told.name, f"{told.site} does not tell of: {', '.join(hidden)}"))
    return found
