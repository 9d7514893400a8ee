"""Findings that somebody with the right takes upon themselves."""

from collections.abc import Iterable
from dataclasses import replace

from controlplane.domain.errors import Invalid
from controlplane.domain.finding import Finding, Severity
from controlplane.planning.checks import CHECKS
from controlplane.planning.facts import Waiver


def waived(findings: tuple[Finding, ...], waivers: Iterable[Waiver]) -> tuple[Finding, ...]:
    """Blockers that were waived and may be are warnings, which say who waived them and why."""
    given = {waiver.id: waiver for waiver in waivers}
    return tuple(
        _accepted(each, given[each.id])
        if each.severity is Severity.BLOCKER and each.id in given and CHECKS[each.id].waivable
        else each
        for each in findings
    )


def check_waivable(ids: Iterable[str]) -> None:
    """Invalid for an id that is none, or that nobody may waive."""
    for id_ in ids:
        check = CHECKS.get(id_)
        if check is None:
            raise Invalid(f"there is no check {id_}: its id stands in the plan's findings")
        if not check.waivable:
            raise Invalid(
                f"{id_} ({check.what}) cannot be waived by anybody: mend what it found instead"
            )


def _accepted(finding: Finding, waiver: Waiver) -> Finding:
    evidence = f"{finding.evidence}; waived by {waiver.by}: {waiver.reason}"
    return replace(finding, severity=Severity.WARNING, evidence=evidence)
