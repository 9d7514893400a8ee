"""How an instance will change its site, and what stands against it."""

from dataclasses import replace

from controlplane.domain.fence import FenceLevel
from controlplane.domain.finding import Finding
from controlplane.domain.ids import SiteName
from controlplane.domain.instance import Power, Size
from controlplane.domain.plan import DiskPlan, Method, MovePlan, PassPolicy, TargetPlan
from controlplane.domain.site import Capability
from controlplane.planning import course, devices, direct, mapping, sizing, source, traits, warm
from controlplane.planning.facts import MoveFacts, MoveWish
from controlplane.planning.findings import unseen
from controlplane.planning.provision import check_firmware, check_way_in
from controlplane.planning.reuse import reuse
from controlplane.planning.waivers import waived


def move(facts: MoveFacts, wish: MoveWish) -> MovePlan:
    """The plan of a move. Pure, total: what stands against it is in its findings."""
    target = facts.target
    size, sku, findings = mapping.size(facts, wish)
    disks, disk_findings = mapping.disks(facts)
    disk_findings += devices.unlike(facts.seen.disks if facts.seen else (), disks, target, sku)
    nics, nic_findings = mapping.nics(facts, wish)
    keys, data, seed_findings = mapping.seeds(facts)
    was_on = facts.seen is not None and facts.seen.power is Power.ON
    passes, pass_findings = _passes(facts, wish, runs=was_on)
    again, reuse_findings = reuse(target, facts.kept, disks, nics, direct=passes.direct)
    if again is not None:
        passes = replace(passes, beside=False)  # what is there takes changes only
    if again is not None and facts.kept and facts.kept.seen and wish.sku is None:
        size = facts.kept.seen.size  # as large as it was there
    checks, check_findings = course.acceptance(facts, wish)
    estimate = course.estimate(facts, disks, passes)
    findings += source.free(facts) + source.reached(facts) + source.ready(facts)
    findings += traits.kept(facts, warm=passes.warm)
    findings += source.fenced(facts) + source.elsewhere(facts) + course.returns(wish)
    findings += check_way_in(target) + check_firmware(target, facts.firmware)
    findings += _room(facts, size, disks, len(nics), kept=again is not None)
    findings += disk_findings + nic_findings + seed_findings
    findings += check_findings + course.works_now(facts, checks)
    findings += course.capped(facts) + course.borders(facts)
    if not facts.again:  # what was measured since tells more
        findings += source.headroom(facts, warm=passes.warm) + course.measured(facts)
        findings += course.in_time(estimate, passes, wish, facts.now)
    findings += pass_findings + reuse_findings + course.leaving(facts, estimate)
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
            ssh_keys=keys,
            user_data=data,
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
        findings=waived(tuple(findings), wish.waivers),
        estimate=estimate,
        return_path=(
            f"{facts.name} restarts on {facts.source.site} if anything fails before the switch"
            if was_on
            else f"{facts.name} stays on {facts.source.site}, powered off, if anything fails"
        ),
    )


def _passes(facts: MoveFacts, wish: MoveWish, *, runs: bool) -> tuple[PassPolicy, list[Finding]]:
    """How the disks are copied."""
    asked = warm.WarmWish(method=wish.method, cutover=wish.cutover, max_downtime=wish.max_downtime)
    if wish.method is Method.DIRECT:
        return direct.policy(facts.target, asked)
    return warm.policy(facts.source, facts.target, asked, runs=runs, agent=facts.agent)


def _room(
    facts: MoveFacts, size: Size, disks: tuple[DiskPlan, ...], nics: int, *, kept: bool
) -> list[Finding]:
    """What the target has to hold beside what stands there already."""
    target, sizes = facts.target, tuple(disk.target_size for disk in disks)
    found = sizing.check_disks(target.limits, sizes, target.site)
    found += sizing.check_nics(target.limits, nics, target.site)
    found += sizing.check_name(target.limits, facts.name, target.site)
    if facts.made:
        return found
    wanted = () if kept else sizes
    if Capability.QUOTA not in target.capabilities:
        found.append(unseen("TGT01", target.site, f"{target.site} tells no quota"))
    found += sizing.check_room(target.quota, size, wanted, target.site)
    return found + sizing.check_space(target, wanted)
