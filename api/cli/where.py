"""Where an instance could go: a plan for each site, made, read and thrown away."""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from api.cli import units
from api.cli.client import Doc, started
from api.cli.failure import Stopped
from api.cli.names import Found
from api.cli.plans import finding_line
from api.cli.session import Rows, Session
from api.cli.watch import blockers, ended
from controlplane.domain.errors import FedctlError
from controlplane.domain.kinds import facts
from controlplane.domain.operation import OperationState
from controlplane.domain.resource import Kind

MOVE = facts(Kind.MOVE)
_PATIENCE = 60.0  # seconds for the plan of one site, and for taking it back
_EVERY = 0.2


class Verdict(StrEnum):
    """Whether it could go there; in the order in which they are shown."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"
    HERE = "here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One site. `why` says what is not known; `status` is that of the plan that was made."""

    site: str
    verdict: Verdict
    why: str = ""
    status: Mapping[str, object]
    failure: Stopped | FedctlError | None = None

    def document(self) -> Doc:
        shown = {name: self.status[name] for name in ("findings", "estimate") if self.status}
        why = {"why": self.why} if self.why else {}
        return {"site": self.site, "verdict": self.verdict.value, **why, **shown}


def choices(session: Session, found: Found, spec: Mapping[str, object]) -> list[Choice]:
    """What each site's plan says, the best first; none is left out."""
    home = found.document["spec"]["zone"]
    made = []
    for each in session.client.list(facts(Kind.SITE)):
        site = each["metadata"]["name"]
        if site == home:
            made.append(Choice(site=site, verdict=Verdict.HERE, status={}))
            continue
        session.say(f"Planning the move of {found} to {site}")
        made.append(_choice(session, found, site, spec))
    order = list(Verdict)
    return sorted(made, key=lambda each: (order.index(each.verdict), _downtime(each), each.site))


def tell(session: Session, found: Found, made: list[Choice]) -> None:
    """All of them, and why not; stopped with the first failure where nothing came to be known."""
    columns = ("SITE", "GOES", "TIME", "DOWNTIME", "SENT", "FINDINGS")
    session.data([each.document() for each in made], Rows(columns, [_row(each) for each in made]))
    for choice in made:
        for each in blockers({"findings": [], **choice.status}):
            session.say(f"{choice.site}{finding_line(each)}")
            if each.get("remedy"):
                session.say(f"{' ' * len(choice.site)}            {each['remedy']}")
    known = [each for each in made if each.verdict in {Verdict.YES, Verdict.NO}]
    failures = [each.failure for each in made if each.failure is not None]
    if failures and not known:
        raise failures[0]
    best = next((each.site for each in made if each.verdict is Verdict.YES), None)
    if best is None:
        session.say(f"No site that answered can take {found} now. Nothing was changed.")
    else:
        session.say(f"Nothing was changed.   next    fedctl move {found} --to {best} --plan")


def _choice(session: Session, found: Found, site: str, spec: Mapping[str, object]) -> Choice:
    wish = {**spec, "target": {"site": site}, "planOnly": True}
    called = f"where-{secrets.token_hex(6)}"
    try:
        answer = session.client.put(MOVE, called, wish, workspace=found.workspace)
    except (Stopped, FedctlError) as e:
        return Choice(site=site, verdict=Verdict.UNKNOWN, why=str(e), status={}, failure=e)
    path = started(answer)
    try:
        operation = _settled(session, path)
        status = session.client.get(MOVE, called, found.workspace)["status"]
    finally:
        _take_back(session, found, called, path)
    outcome = ended(operation)
    if outcome is OperationState.SUCCEEDED:
        return Choice(site=site, verdict=Verdict.YES, status=status)
    if outcome is OperationState.BLOCKED:
        return Choice(site=site, verdict=Verdict.NO, status=status)
    problem = operation["status"].get("problem") or {}
    late = f"no plan within {units.seconds(_PATIENCE)}"
    return Choice(
        site=site,
        verdict=Verdict.UNKNOWN,
        why=problem.get("message") or (late if outcome is None else outcome.value),
        status={},
    )


def _settled(session: Session, path: str) -> Doc:
    """The operation once it has ended, or as it is when patience is at its end."""
    pause = threading.Event()
    until = time.monotonic() + _PATIENCE
    while True:
        operation = session.client.document("GET", path)
        if ended(operation) is not None or time.monotonic() > until:
            return operation
        pause.wait(_EVERY)


def _take_back(session: Session, found: Found, called: str, path: str) -> None:
    """Nothing of the question stays; what must is said."""
    move = session.client.path(MOVE, called, found.workspace)
    if ended(session.client.document("GET", path)) is None:
        with suppress(Stopped):  # it ended in between
            session.client.send("POST", f"{move}/cancel")
        _settled(session, path)
    try:
        session.client.send("DELETE", move)
    except Stopped as e:
        session.say(f"The planned move {found.workspace}/{called} stays: {e}")


def _downtime(choice: Choice) -> float:
    estimate = choice.status.get("estimate")
    return float(estimate["downtime_seconds"]) if isinstance(estimate, Mapping) else 0.0


def _row(choice: Choice) -> tuple[str, ...]:
    estimate = choice.status.get("estimate")
    cost = ("", "", "")
    if choice.verdict is Verdict.YES and isinstance(estimate, Mapping):
        whole, down = estimate["seconds"], estimate["downtime_seconds"]
        cost = (units.seconds(whole), units.seconds(down), units.size(estimate["bytes_sent"]))
    return (choice.site, choice.verdict.value, *cost, choice.why or _summary(choice))


def _summary(choice: Choice) -> str:
    """`2 blockers TGT02 POL01, 1 info PTH07`."""
    findings = choice.status.get("findings")
    found: list[Doc] = findings if isinstance(findings, list) else []
    parts = []
    for severity, number in Counter(each["severity"] for each in found).items():
        ids = " ".join(each["id"] for each in found if each["severity"] == severity)
        plural = "s" if number > 1 and severity != "info" else ""
        parts.append(f"{number} {severity}{plural} {ids}")
    return ", ".join(parts)
