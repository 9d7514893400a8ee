"""The catalogue of preflight checks, and docs/preflight.md, which is made from it.

An id stands for one question. `by` names the functions that answer it; a check that nobody wrote
says what it waits for. Ids MAP, PLN, and those past the ends of the other groups are ours.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`weight`: what it is when it fails, as letters of block, warn, inform.

    `waivable`: somebody with the right may let a move run in spite of it. `by` is empty exactly
    where `not_yet` says why.
    """

    id: str
    what: str
    weight: str
    by: tuple[str, ...] = ()
    waivable: bool = False
    not_yet: str = ""


def _check(
    id: str,  # noqa: A002  # the field's name
    weight: str,
    what: str,
    *by: str,
    waivable: bool = False,
) -> Check:
    return Check(id=id, what=what, weight=weight, by=by, waivable=waivable)


def _later(id: str, weight: str, what: str, why: str) -> Check:  # noqa: A002  # the field's name
    return Check(id=id, what=what, weight=weight, not_yet=why)


_GUEST = "nothing looks into the guest's disks before a move"
_POLICY = "no policy can be written down yet, which it would be held against"

SOURCE = (
    _check(
        "SRC01",
        "B",
        "the source shows the instance, and its account may do what a move needs",
        "source.reached",
        "grouping._refusal",
    ),
    _check(
        "SRC02",
        "B",
        "power, lock and task state allow a move",
        "source.ready",
        "traits.locked",
        "adoption.ready",
    ),
    _check("SRC03", "B", "no protection flag stands in the way", "traits.protected", waivable=True),
    _check(
        "SRC04",
        "BW",
        "snapshots of others: they block a warm move, and stay behind",
        "traits.snapshots",
        waivable=True,
    ),
    _check(
        "SRC05",
        "BIW",
        "the source tells what changed while it runs, and goes on telling",
        "warm.policy",
        "sites._untold",
        "grouping._refusal",
    ),
    _check(
        "SRC06",
        "B",
        "room for snapshots while a warm move copies",
        "source.headroom",
        waivable=True,
    ),
    _check(
        "SRC07",
        "BW",
        "disks that are shared, raw, hidden, encrypted, or no volumes at all",
        "traits.disks",
        "adoption.disks",
        "grouping._refusal",
    ),
    _check("SRC08", "W", "devices passed through to it", "traits.devices"),
    _check(
        "SRC09", "BW", "vTPM, secure boot and firmware variables", "traits.trust", waivable=True
    ),
    _check("SRC10", "W", "affinity, NUMA, huge pages, shares", "traits.placement"),
    _later("SRC11", "W", "the age of the last backup", "no schedule of recovery points yet"),
    _check(
        "SRC12",
        "B",
        "no other operation works on it",
        "source.free",
    ),
)
GUEST = (
    _later("GST01", "BW", "its system is known and supported at the target", _GUEST),
    _later("GST02", "B", "free space for a conversion", "nothing in a guest is converted"),
    _later("GST03", "B", "virtio drivers in initramfs or registry", _GUEST),
    _later("GST04", "B", "keys of BitLocker or LUKS are at hand", _GUEST),
    _later("GST05", "B", "dynamic disks, multi-boot, CompactOS", _GUEST),
    _later("GST06", "B", "hibernation, fast startup, a dirty file system", _GUEST),
    _later("GST07", "W", "fstab or crypttab by device name", _GUEST),
    _later("GST08", "W", "names of nics and static configuration", _GUEST),
    _later("GST09", "B", "an immutable resolv.conf", _GUEST),
    _check("GST10", "WI", "the guest's agent answers and can quiesce", "warm._quiescing"),
    _later("GST11", "B", "a domain controller (USN rollback)", _GUEST),
    _later("GST12", "W", "a failover cluster or floating address", _GUEST),
    _later("GST13", "I", "a SAN policy that leaves disks offline", _GUEST),
    _later("GST14", "W", "cloud-init will run again", _GUEST),
    _later("GST15", "W", "licences bound to hardware or host", _GUEST),
    _later("GST16", "W", "the clock, and NTP at the target", _GUEST),
)
TARGET = (
    _check(
        "TGT01",
        "B",
        "the site's quota holds it; nothing is reserved by that",
        "sizing.check_room",
        "move._room",
        waivable=True,
    ),
    _check(
        "TGT02",
        "B",
        "a storage of the site has room for the disks",
        "sizing.check_space",
        waivable=True,
    ),
    _check(
        "TGT03",
        "BWI",
        "a sku holds the size, and which one; features of CPUs are not compared",
        "provision.choose_size",
        "mapping.size",
        "mapping._smallest",
    ),
    _check(
        "TGT04",
        "B",
        "firmware and architecture, number and size of disks, number of nics",
        "provision.check_firmware",
        "sizing.check_disks",
        "sizing.check_nics",
        "devices.unlike",
        "traits.machine",
    ),
    _later(
        "TGT05",
        "B",
        "the storage is there, encrypted if that is asked",
        "no storage can be wished, and no site tells whether one encrypts",
    ),
    _later(
        "TGT06",
        "B",
        "names, MACs, addresses are free there",
        "no driver lists what others have on a network",
    ),
    _check(
        "TGT07",
        "WI",
        "the network holds the address, or a rule gives a new one",
        "devices.nic_on",
        "mapping._address",
    ),
    _later("TGT08", "B", "security rules translate without widening", "no rules are managed yet"),
    _check("TGT09", "W", "the site shows a console or the agent", "course.acceptance"),
    _later("TGT10", "WB", "the GPU's model and driver", "no site's devices are known"),
    _later("TGT11", "I", "a repository of images and agents can be reached", _GUEST),
    _check("TGT12", "B", "the site takes instances and disks in", "provision.check_way_in"),
)
PATH = (
    _later(
        "PTH01",
        "B",
        "ports open and TLS pinned from mover to both sites",
        "what is open shows only when a copy begins; fedctl site verify tries the API alone",
    ),
    _check(
        "PTH02",
        "W",
        "the speed was measured; changes are copied faster than they are made",
        "control._add_finding",
        "course.measured",
    ),
    _check(
        "PTH03", "B", "duration and downtime fit what is allowed", "course.in_time", waivable=True
    ),
    _later("PTH04", "W", "the MTU from end to end", "nothing measures it"),
    _check("PTH05", "W", "what a cap on bandwidth leaves", "course.capped"),
    _later("PTH06", "B", "the countries on the way are allowed", _POLICY),
    _check("PTH07", "I", "how much leaves the source", "course.leaving"),
    _check("PTH08", "I", "the import is no part of the downtime", "warm.policy"),
    _check(
        "PTH09",
        "B",
        "a direct move has disks that can be written to, and waits for no cutover",
        "direct.policy",
    ),
    _check("PTH10", "I", "what a direct move keeps nothing for", "direct.without"),
)
POLICY = (
    _check(
        "POL01",
        "W",
        "the country it is in afterwards; operator and certificates are not compared",
        "course.borders",
    ),
    _later("POL02", "B", "the class of the data is allowed there", _POLICY),
    _later("POL03", "B", "who holds the keys", _POLICY),
    _later("POL04", "B", "approvals are present", "a plan is agreed to by one person, by digest"),
    _later("POL05", "BW", "how much is concentrated on one site afterwards", "no limit can be set"),
    _later("POL06", "B", "no change freeze is in force", _POLICY),
    _later("POL07", "W", "legal hold or retention on the source", _POLICY),
)
APPLICATION = (
    _later("APP01", "W", "what depends on it moves with it", "no flows are seen"),
    _check(
        "APP02",
        "W",
        "what is to prove the target can be seen at the source now",
        "course.works_now",
    ),
    _later("APP03", "W", "the TTL in DNS was lowered", "no DNS is managed yet"),
    _later("APP04", "W", "members of load balancers and firewalls", "neither is managed yet"),
    _later("APP05", "W", "monitoring and backup follow", "neither is managed yet"),
)
RETURN = (
    _later("RET01", "B", "the way back was rehearsed", "no rehearsal yet"),
    _check("RET02", "B", "the source can be fenced", "source.fenced"),
    _later("RET03", "I", "replication back is possible", "no replication yet"),
    _check("RET04", "B", "the source is kept for a while", "course.returns", waivable=True),
    _check("RET05", "I", "a copy that stayed is used again", "reuse.reuse"),
    _check("RET06", "I", "why a copy that stayed is not used", "reuse.reuse"),
)
MAPPING = (
    _check(
        "MAP01",
        "BI",
        "each nic has a network there",
        "mapping.nics",
        "mapping._unmapped",
        "provision.provision",
    ),
    _check("MAP02", "W", "the network can have the MAC", "devices.nic_on"),
    _check("MAP03", "B", "the name can be carried there", "sizing.check_name"),
    _check("MAP04", "WI", "the disk keeps its bus", "devices.unlike", "mapping._own_bus"),
    _check("MAP05", "I", "the disk keeps its size", "devices.unlike"),
    _check("MAP06", "W", "user data and ssh keys are given to it", "mapping.seeds"),
)
PLAN = (
    _check("PLN01", "B", "the plan that was agreed to still holds", "differences.as_agreed"),
    _check("PLN02", "B", "the target is another site", "source.elsewhere"),
)
GROUPS = {
    "Source": SOURCE,
    "Guest": GUEST,
    "Target": TARGET,
    "Path": PATH,
    "Policy": POLICY,
    "Application": APPLICATION,
    "Return": RETURN,
    "Mapping": MAPPING,
    "Plan": PLAN,
}
CHECKS = {check.id: check for group in GROUPS.values() for check in group}
