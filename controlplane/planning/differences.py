"""Whether a plan that was agreed to is still what would be done, and as safe as it was."""

from collections.abc import Iterable
from dataclasses import replace

from controlplane.domain.finding import Finding, Severity, blocking
from controlplane.domain.plan import MovePlan
from controlplane.planning.digest import as_json
from controlplane.planning.findings import blocker

_PARTS = ("source", "copy", "target", "passes", "fence", "was_on")
_AT_CUTOVER = ("source", "copy", "fence", "was_on")
_RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.BLOCKER: 2}


def as_agreed(agreed: MovePlan, now: MovePlan) -> MovePlan:
    """The agreed plan, with today's findings where they differ; a plan that differs is blocked."""
    changed = _changed(agreed, now, _PARTS)
    graver = worse(agreed.findings, now.findings)
    if not changed and not graver:
        return agreed if not blocking(now.findings) else replace(agreed, findings=now.findings)
    finding = blocker(
        "PLN01",
        agreed.instance_name,
        f"since the plan was made {_told(changed, graver)}",
        "make a new plan and agree to it",
    )
    return replace(agreed, findings=(*now.findings, finding))


def in_the_way(agreed: MovePlan, now: MovePlan) -> str:
    """Why the source may not be stopped by this plan any more, in words; empty when it may."""
    changed = _changed(agreed, now, _AT_CUTOVER)
    sizes = [[disk.size for disk in plan.target.disks] for plan in (agreed, now)]
    if sizes[0] != sizes[1]:
        changed.append("disks")
    nics = [[(nic.network, nic.mac) for nic in plan.target.nics] for plan in (agreed, now)]
    if nics[0] != nics[1]:
        changed.append("nics")
    graver = worse(agreed.findings, now.findings)
    return _told(changed, graver) if changed or graver else ""


def worse(before: Iterable[Finding], now: Iterable[Finding]) -> list[Finding]:
    """New blockers, and findings that weigh more than they did; each once.

    One that could not look before, and warns now, tells more and is not worse.
    """
    ranks: dict[tuple[str, str], int] = {}
    for each in before:
        about = (each.id, each.subject)
        rank = _RANK.get(each.severity, _RANK[Severity.WARNING])
        ranks[about] = max(rank, ranks.get(about, 0))
    return [
        each
        for each in now
        if each.severity in _RANK
        and _RANK[each.severity] > ranks.get((each.id, each.subject), _RANK[Severity.WARNING])
    ]


def _changed(agreed: MovePlan, now: MovePlan, parts: Iterable[str]) -> list[str]:
    return [part for part in parts if as_json(getattr(agreed, part)) != as_json(getattr(now, part))]


def _told(changed: list[str], graver: list[Finding]) -> str:
    parts = [f"these changed: {', '.join(changed)}"] if changed else []
    parts += [f"{each.id} became a {each.severity}: {each.evidence}" for each in graver]
    return "; ".join(parts)
