"""How an instance will change its site, and what stands against it."""

from dataclasses import dataclass
from datetime import timedelta

from controlplane.domain.disk import MIB
from controlplane.domain.fence import FenceLevel
from controlplane.domain.finding import Finding, Severity
from controlplane.domain.ids import ArtefactId, InstanceId, SiteName
from controlplane.domain.instance import Firmware, InstanceSeen, InstanceState, Power, Size
from controlplane.domain.plan import (
    AT_ONCE,
    AcceptanceCheck,
    CheckKind,
    Cutover,
    Delivery,
    DiskPlan,
    Estimate,
    Method,
    MovePlan,
    NicPlan,
    PassPolicy,
    TargetPlan,
)
from controlplane.domain.site import Capability, SiteFacts
from controlplane.planning import sizing, warm
from controlplane.planning.provision import (
    check_firmware,
    check_way_in,
    choose_size,
    delivery,
    image_format,
)
from controlplane.planning.reuse import Kept, reuse

ASSUMED_RATE = 40 * MIB
PROVIDER_CALLS_SECONDS = 20.0


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
    left of it at the target.
    """

    instance: InstanceId
    name: str
    source: SiteFacts
    target: SiteFacts
    copy: ArtefactId
    seen: InstanceSeen | None
    unseen_why: str = ""
    firmware: Firmware = Firmware.BIOS
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""
    rate: Rate = Rate()
    bandwidth: float | None = None
    busy_with: str = ""
    kept: Kept | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveWish:
    """What was asked. `sku` forces a size of the target; durations bound the run."""

    sku: str | None = None
    networks: tuple[tuple[str, str], ...] = ()
    checks: tuple[AcceptanceCheck, ...] = ()
    deadline: timedelta = timedelta(hours=12)
    retain: timedelta = timedelta(days=7)
    max_downtime: timedelta | None = None
    method: Method | None = Method.COLD
    cutover: Cutover = AT_ONCE


def _blocker(id: str, subject: str, evidence: str, remedy: str) -> Finding:  # noqa: A002  # the field's name
    return Finding(
        id=id, severity=Severity.BLOCKER, subject=subject, evidence=evidence, remedy=remedy
    )


def _source_findings(facts: MoveFacts) -> list[Finding]:
    found: list[Finding] = []
    source = facts.source.site
    if facts.busy_with:
        found.append(
            _blocker(
                "SRC12",
                facts.name,
                f"{facts.name} is held by operation {facts.busy_with}",
                "wait for it or cancel it",
            )
        )
    if facts.seen is None:
        found.append(
            _blocker(
                "SRC01",
                facts.name,
                f"{source} does not show {facts.name}: {facts.unseen_why}",
                f"look at the site (fedctl site verify {source}), then ask again",
            )
        )
    elif facts.seen.state is not InstanceState.READY or facts.seen.power is None:
        found.append(
            _blocker(
                "SRC02",
                facts.name,
                f"{facts.name} is {facts.seen.state} at {source}"
                + (f" ({facts.seen.why})" if facts.seen.why else ""),
                "wait until it is ready, or repair it",
            )
        )
    found.extend(
        _blocker(
            "SRC01",
            source,
            f"{source} lacks {capability}, which a move out of it needs",
            "give the account the rights named in the provider's card, then verify the site",
        )
        for capability in (Capability.INSTANCES, Capability.DISK_EXPORT)
        if capability not in facts.source.capabilities
    )
    if Capability.FENCING not in facts.source.capabilities:
        found.append(
            _blocker(
                "RET02",
                source,
                f"{source} cannot fence: the source could start beside the target",
                "give the account what the provider's card names for fencing, then verify the site",
            )
        )
    if facts.source.site == facts.target.site:
        found.append(
            _blocker(
                "TGT06",
                facts.name,
                f"{facts.name} is at {source} already",
                "name another site",
            )
        )
    return found


def _nics(facts: MoveFacts, wish: MoveWish) -> tuple[tuple[NicPlan, ...], list[Finding]]:
    rules = dict(wish.networks)
    names = {n.ref: n.name for n in facts.source.catalogue.networks}
    planned: list[NicPlan] = []
    found: list[Finding] = []
    for index, nic in enumerate(facts.seen.nics if facts.seen else ()):
        name = names.get(nic.network, nic.network)
        network, how = sizing.network_for(facts.target, name, rules)
        if network is None:
            offered = ", ".join(n.name for n in facts.target.catalogue.networks) or "none"
            found.append(
                _blocker(
                    "TGT06",
                    f"nic {index}",
                    f"{facts.target.site} has no network for {name!r} (it has: {offered})",
                    f"map it: --network {name}=NETWORK",
                )
            )
            continue
        if how == "only network" and network.name != name:
            found.append(
                Finding(
                    id="TGT07",
                    severity=Severity.INFO,
                    subject=f"nic {index}",
                    evidence=f"{name} becomes {network.name}, the only network there;"
                    " address and MAC are kept",
                )
            )
        planned.append(
            NicPlan(
                network=network.ref,
                network_name=network.name,
                mac=nic.mac,
                address=nic.address,
                source_network=name,
            )
        )
    return tuple(planned), found


def _disks(facts: MoveFacts) -> tuple[DiskPlan, ...]:
    way = delivery(facts.target) or Delivery.PUSH
    return tuple(
        DiskPlan(
            index=index,
            size=disk.size,
            target_size=sizing.rounded(disk.size, facts.target.limits),
            bus=disk.bus,
            format=image_format(facts.target),
            delivery=way,
            volume=disk.volume,
        )
        for index, disk in enumerate(facts.seen.disks if facts.seen else ())
    )


def _estimate(facts: MoveFacts, disks: tuple[DiskPlan, ...], passes: PassPolicy) -> Estimate:
    size = sum(disk.size for disk in disks)
    rate = facts.rate.bytes_per_second or ASSUMED_RATE
    limited = facts.bandwidth is not None and facts.bandwidth < rate
    rate = min(rate, facts.bandwidth or rate)
    expected = warm.times(passes, size, rate, PROVIDER_CALLS_SECONDS)
    basis = (
        f"limited to {rate / MIB:.1f} MiB/s"
        if limited
        else f"measured {rate / MIB:.0f} MiB/s on {facts.rate.seen}"
        if facts.rate.bytes_per_second
        else f"assumed {ASSUMED_RATE // MIB} MiB/s; nothing was measured on this pair yet"
    )
    return Estimate(
        seconds=round(expected.seconds, 1),
        downtime_seconds=round(expected.downtime, 1),
        bytes_read=size,
        bytes_sent=size,
        basis=basis,
    )


def _checks(facts: MoveFacts, wish: MoveWish) -> tuple[tuple[AcceptanceCheck, ...], list[Finding]]:
    if wish.checks:
        return wish.checks, []
    seen = {Capability.CONSOLE_LOG, Capability.GUEST_AGENT}
    if seen & facts.target.capabilities:
        return (AcceptanceCheck(kind=CheckKind.BOOTED),), []
    return (AcceptanceCheck(kind=CheckKind.POWERED),), [
        Finding(
            id="TGT09",
            severity=Severity.WARNING,
            subject=facts.target.site,
            evidence=f"{facts.target.site} shows neither console nor guest agent:"
            " that it is powered on will be the only proof that the target works",
            remedy="watch the first minutes after the move",
        )
    ]


def _time_findings(estimate: Estimate, passes: PassPolicy, wish: MoveWish) -> list[Finding]:
    found: list[Finding] = []
    if wish.max_downtime and estimate.downtime_seconds > wish.max_downtime.total_seconds():
        found.append(
            _blocker(
                "PTH03",
                "downtime",
                f"a {'warm' if passes.warm else 'cold'} move is down for about"
                f" {estimate.downtime_seconds:.0f} s"
                f" ({estimate.basis}); at most {wish.max_downtime.total_seconds():.0f} s are"
                " allowed",
                "allow more downtime",
            )
        )
    if estimate.seconds > wish.deadline.total_seconds():
        found.append(
            _blocker(
                "PTH03",
                "deadline",
                f"the move takes about {estimate.seconds:.0f} s ({estimate.basis}); the deadline"
                f" is {wish.deadline.total_seconds():.0f} s",
                "set a later deadline",
            )
        )
    return found


def _sku(facts: MoveFacts, wish: MoveWish) -> tuple[Size, str | None, list[Finding]]:
    need = facts.seen.size if facts.seen else Size(cpus=1, memory=0)
    if wish.sku is None:
        return choose_size(facts.target, need)
    named = [sku for sku in facts.target.catalogue.skus if sku.name == wish.sku]
    if named:
        return named[0].size, named[0].name, []
    offered = ", ".join(sku.name for sku in facts.target.catalogue.skus) or "none by name"
    return (
        need,
        None,
        [
            _blocker(
                "TGT03",
                wish.sku,
                f"{facts.target.site} has no sku {wish.sku!r} (it has: {offered})",
                "name one of these or leave it out",
            )
        ],
    )


def move(facts: MoveFacts, wish: MoveWish) -> MovePlan:
    """The plan of a move. Pure, total: what stands against it is in its findings."""
    target = facts.target
    size, sku, findings = _sku(facts, wish)
    disks = _disks(facts)
    nics, nic_findings = _nics(facts, wish)
    again, reuse_findings = reuse(target, facts.kept, disks, nics)
    if again is not None and facts.kept and facts.kept.seen and wish.sku is None:
        size = facts.kept.seen.size  # as large as it was there
    checks, check_findings = _checks(facts, wish)
    was_on = facts.seen is not None and facts.seen.power is Power.ON
    asked = warm.WarmWish(method=wish.method, cutover=wish.cutover, max_downtime=wish.max_downtime)
    passes, pass_findings = warm.policy(facts.source, target, asked, runs=was_on)
    estimate = _estimate(facts, disks, passes)
    sizes = tuple(disk.target_size for disk in disks)
    findings += _source_findings(facts)
    findings += check_way_in(target)
    findings += check_firmware(target, facts.firmware)
    findings += sizing.check_disks(target.limits, sizes, target.site)
    findings += sizing.check_name(target.limits, facts.name, target.site)
    room = () if again is not None else sizes
    findings += sizing.check_room(target.quota, size, room, target.site)
    findings += nic_findings + check_findings + _time_findings(estimate, passes, wish)
    findings += pass_findings + reuse_findings
    if disks:
        findings.append(
            Finding(
                id="PTH07",
                severity=Severity.INFO,
                subject=facts.source.site,
                evidence=f"up to {sizing.gib(estimate.bytes_read)} leave {facts.source.site}",
            )
        )
    return MovePlan(
        instance=facts.instance,
        instance_name=facts.name,
        source=facts.source.site,
        copy=facts.copy,
        target=TargetPlan(
            site=SiteName(target.site),
            name=facts.name,
            size=size,
            sku=sku,
            firmware=facts.firmware,
            create_order=target.limits.create_order,
            disks=disks,
            nics=nics,
            ssh_keys=facts.ssh_keys,
            user_data=facts.user_data,
            reuse=again,
        ),
        passes=passes,
        fence=(
            facts.source.limits.fence_level
            if Capability.FENCING in facts.source.capabilities
            else FenceLevel.REPORTED
        ),
        checks=checks,
        retain=wish.retain,
        deadline=wish.deadline,
        was_on=was_on,
        findings=tuple(findings),
        estimate=estimate,
        return_path=(
            f"{facts.name} restarts on {facts.source.site} if anything fails before the switch"
            if was_on
            else f"{facts.name} stays on {facts.source.site}, powered off, if anything fails"
        ),
    )
