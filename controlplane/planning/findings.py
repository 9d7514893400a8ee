"""A check's result in one line: what stands in the way, warns, informs, or could not be seen."""

from controlplane.domain.finding import Finding, Severity


def blocker(id: str, subject: str, evidence: str, remedy: str) -> Finding:  # noqa: A002  # the field's name
    return Finding(
        id=id, severity=Severity.BLOCKER, subject=subject, evidence=evidence, remedy=remedy
    )


def warning(id: str, subject: str, evidence: str, remedy: str) -> Finding:  # noqa: A002  # the field's name
    return Finding(
        id=id, severity=Severity.WARNING, subject=subject, evidence=evidence, remedy=remedy
    )


def told(id: str, subject: str, evidence: str) -> Finding:  # noqa: A002  # the field's name
    return Finding(id=id, severity=Severity.INFO, subject=subject, evidence=evidence)


def unseen(id: str, subject: str, why: str) -> Finding:  # noqa: A002  # the field's name
    """The check could not look: what it could not see, and why."""
    return Finding(id=id, severity=Severity.UNSEEN, subject=subject, evidence=f"not seen: {why}")
