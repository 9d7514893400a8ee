"""What stands against adopting a machine, and what of it a move would leave."""

from dataclasses import replace

import pytest

from controlplane.domain.discovery import Discovered
from controlplane.domain.disk import GIB, DiskBus
from controlplane.domain.finding import Severity
from controlplane.domain.instance import (
    DiskSeen,
    Firmware,
    InstanceSeen,
    InstanceState,
    Power,
    Size,
    Trait,
    Traits,
    TraitSeen,
)
from controlplane.planning.adoption import standing

SEEN = InstanceSeen(
    ref="104",
    name="legacy",
    state=InstanceState.READY,
    power=Power.ON,
    epoch=0,
    size=Size(cpus=2, memory=3 * GIB),
    disks=(DiskSeen(volume="local:a", size=4 * GIB, bus=DiskBus.SCSI),),
    nics=(),
)
LEGACY = Discovered(
    seen=SEEN, firmware=Firmware.BIOS, traits=Traits(looked=frozenset(Trait)), held=""
)


def found(machine: Discovered) -> list[tuple[str, Severity]]:
    return [(f.id, f.severity) for f in standing(machine, "par-pve")]


def test_nothing_stands_against_a_plain_machine():
    assert found(LEGACY) == []


@pytest.mark.parametrize(
    ("trait", "id_", "severity"),
    [
        (Trait.LOCKED, "SRC02", Severity.BLOCKER),
        (Trait.PROTECTED, "SRC03", Severity.WARNING),
        (Trait.SNAPSHOTS, "SRC04", Severity.WARNING),
        (Trait.SHARED_DISK, "SRC07", Severity.BLOCKER),
        (Trait.RAW_DISK, "SRC07", Severity.BLOCKER),
        (Trait.EPHEMERAL_DISK, "SRC07", Severity.BLOCKER),
        (Trait.SWAP_DISK, "SRC07", Severity.WARNING),
        (Trait.HIDDEN_DISK, "SRC07", Severity.BLOCKER),
        (Trait.ENCRYPTED_DISK, "SRC07", Severity.BLOCKER),
        (Trait.READ_ONLY_DISK, "SRC07", Severity.BLOCKER),
        (Trait.DETACHED_DISK, "SRC07", Severity.WARNING),
        (Trait.DISC, "SRC07", Severity.WARNING),
        (Trait.DEVICE, "SRC08", Severity.WARNING),
        (Trait.TPM, "SRC09", Severity.WARNING),
        (Trait.SECURE_BOOT, "SRC09", Severity.WARNING),
        (Trait.MACHINE, "TGT04", Severity.BLOCKER),
        (Trait.PLACEMENT, "SRC10", Severity.WARNING),
    ],
)
def test_each_trait_stands_against_it_or_is_told(trait: Trait, id_: str, severity: Severity):
    told = Traits(looked=frozenset(Trait), found=(TraitSeen(trait=trait, words="like this"),))
    assert found(replace(LEGACY, traits=told)) == [(id_, severity)]
    assert "machine 104 has at par-pve: like this" in {
        f.evidence for f in standing(replace(LEGACY, traits=told), "par-pve")
    }


def test_one_that_is_worked_on_is_left_alone():
    busy = replace(LEGACY, held="locked (backup)")
    assert [f.evidence for f in standing(busy, "par-pve")] == [
        "machine 104 at par-pve is locked (backup)"
    ]
    for seen in (replace(SEEN, state=InstanceState.WORKING), replace(SEEN, power=None)):
        assert found(replace(LEGACY, seen=seen)) == [("SRC02", Severity.BLOCKER)]


def test_one_without_a_disk_is_left_alone():
    assert found(replace(LEGACY, seen=replace(SEEN, disks=()))) == [("SRC07", Severity.BLOCKER)]


def test_firmware_whose_variables_stay_behind_is_told():
    assert found(replace(LEGACY, firmware=Firmware.UEFI)) == [("SRC09", Severity.WARNING)]


def test_what_the_site_does_not_tell_is_told():
    dumb = replace(LEGACY, traits=Traits(looked=frozenset(Trait) - {Trait.TPM}))
    assert found(dumb) == [("SRC09", Severity.UNSEEN)]
