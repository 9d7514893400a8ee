"""fedctl move, moves: an instance changes its site, with a plan that was agreed to."""

from collections.abc import Mapping
from typing import Annotated

import typer

from api.cli import units
from api.cli.client import Doc, started
from api.cli.commands.access import rate, seconds
from api.cli.commands.instances import INSTANCE, Name
from api.cli.commands.sites import NoWait
from api.cli.completion import offering
from api.cli.failure import Stopped
from api.cli.names import Found, find, workspace_names
from api.cli.plans import blocked, failed, kept_text, moved_text, plan_text
from api.cli.session import (
    Facts,
    Form,
    Output,
    Rows,
    Session,
    Workspace,
    Yes,
    command,
    field,
)
from api.cli.watch import blockers, ended, finish, follow, name_of
from api.cli.where import choices, tell
from controlplane.domain.errors import Invalid, NotFound
from controlplane.domain.kinds import facts
from controlplane.domain.operation import OperationState
from controlplane.domain.plan import CheckKind
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
MOVE = facts(Kind.MOVE)
Which = Annotated[
    str,
    typer.Argument(
        help="A move, or the instance that it moved last.",
        autocompletion=offering(Kind.MOVE, Kind.INSTANCE),
    ),
]


def move(
    ctx: typer.Context,
    instance: Name,
    *,
    to: Annotated[
        str,
        typer.Option("--to", help="The site it is to be on.", autocompletion=offering(Kind.SITE)),
    ] = "",
    where: Annotated[
        bool, typer.Option("--where", help="Show what a move to each site would be, and stop.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show the plan and stop.")] = False,
    yes: Yes = False,
    max_downtime: Annotated[
        str | None, typer.Option("--max-downtime", help="Refuse more, such as 3m.")
    ] = None,
    max_bandwidth: Annotated[
        str | None, typer.Option("--max-bandwidth", help="Copy no faster, such as 50MiB/s.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="warm, cold, auto: warm where it saves downtime; direct: cold, past the vault.",
        ),
    ] = "auto",
    cutover: Annotated[
        str | None,
        typer.Option("--cutover", help="manual, or a time (RFC 3339) before which it may not be."),
    ] = None,
    cutover_until: Annotated[
        str | None, typer.Option("--cutover-until", help="Give up when it is not done by then.")
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option("--check", help="powered, booted or booted:TEXT, with @60s to wait longer."),
    ] = None,
    deadline: Annotated[
        str | None, typer.Option("--deadline", help="Roll back after this time, such as 2h.")
    ] = None,
    retain: Annotated[
        str | None, typer.Option("--retain", help="Keep the old copy so long, such as 7d.")
    ] = None,
    sku: Annotated[str | None, typer.Option(help="Another size there.")] = None,
    network: Annotated[
        list[str] | None, typer.Option("--network", help="FROM=TO, names of networks.")
    ] = None,
    new_address: Annotated[
        list[str] | None,
        typer.Option("--new-address", help="A source's network: its nics get new addresses."),
    ] = None,
    waive: Annotated[
        list[str] | None,
        typer.Option("--waive", help="ID=REASON: take a finding that blocks upon oneself."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="What to call the move.")] = None,
    no_wait: NoWait = False,
    workspace: Workspace = None,
    output: Output = Form.TABLE,
) -> None:
    if where == bool(to):
        raise Invalid("say --to SITE, or --where to see what each site could do")
    spec: dict[str, object] = {}
    spec |= {"method": method} if method != "auto" else {}
    spec |= _cutover(cutover, cutover_until)
    spec |= {"maxDowntime": seconds(max_downtime, "--max-downtime")} if max_downtime else {}
    spec |= {"maxBandwidth": rate(max_bandwidth, "--max-bandwidth")} if max_bandwidth else {}
    spec |= {"deadline": seconds(deadline, "--deadline")} if deadline else {}
    spec |= {"retainSource": seconds(retain, "--retain")} if retain else {}
    spec |= {"checks": [_check(text) for text in check]} if check else {}
    spec |= {"skuRef": {"resource": f"skus/{sku}"}} if sku else {}
    mapped = _networks(network or [], new_address or [])
    spec |= {"networkMap": mapped} if mapped else {}
    spec |= {"waivers": [_waiver(text) for text in waive]} if waive else {}
    with Session(ctx, form=output, workspace=workspace) as session:
        found = find(session, Kind.INSTANCE, instance)
        spec["instanceRef"] = {"resource": f"{INSTANCE.collection}/{found.name}"}
        if where:
            tell(session, found, choices(session, found, spec))
            return
        spec["target"] = {"site": to}
        called = name or _fresh_name(session, found)
        planned = _plan(session, found, called, spec)
        session.say(plan_text(str(found), planned))
        if blockers(planned["status"]):
            session.data(planned)
            raise blocked(str(found), to, planned)
        if plan:
            session.data(planned)
            return
        if not session.agreed("\nRun this plan?", yes=yes):
            session.say(f"Nothing was changed; the plan is kept as {found.workspace}/{called}.")
            return
        agreed = {**spec, "planOnly": False, "planDigest": planned["status"]["planDigest"]}
        answer = session.client.put(MOVE, called, agreed, workspace=found.workspace)
        _run(session, found, called, started(answer), wait=not no_wait)


@command(app, "list", "fedctl moves list", "fedctl moves list -w shop -o json", text="Lists moves.")
def list_moves(
    ctx: typer.Context, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        only = session.context.workspace
        items: list[Doc] = []
        rows = []
        for place in [only] if only else workspace_names(session):
            for each in session.client.list(MOVE, place):
                items.append(each)
                status = each["status"]
                rows.append(
                    (
                        f"{place}/{each['metadata']['name']}",
                        _instance_name(each),
                        field(status, "plan", "source") or "",
                        each["spec"]["target"]["site"],
                        status.get("phase", ""),
                        _downtime(status),
                        units.age(each["metadata"]["createdAt"]),
                        status.get("waitsFor", ""),
                    )
                )
        columns = ("NAME", "INSTANCE", "FROM", "TO", "PHASE", "DOWNTIME", "AGE", "WAITS FOR")
        session.data(items, Rows(columns, rows))


@command(
    app, "show", "fedctl moves show web-1", "fedctl moves show web-1 -o yaml", text="Shows one."
)
def show(
    ctx: typer.Context, which: Which, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        found = _found(session, which, plans=True)
        document = found.document
        status = document["status"]
        if status.get("plan"):
            session.say(plan_text(f"{found.workspace}/{_instance_name(document)}", document))
        shown = {
            "move": str(found),
            "instance": _instance_name(document),
            "to": document["spec"]["target"]["site"],
            "state": status["state"],
            "phase": status.get("phase"),
            "waits": status.get("waitsFor"),
            "operation": status.get("operation"),
            "plan": status.get("planDigest"),
            "downtime": _downtime(status),
            "problem": field(status, "problem", "message"),
            "retained": "; ".join(kept_text(each) for each in status.get("retained", [])),
        }
        session.data(document, Facts(shown))


@command(
    app,
    "cancel",
    "fedctl moves cancel web-1",
    "fedctl moves cancel web-1 --no-wait",
    text="Before the switch everything is rolled back; after it, it is too late.",
)
def cancel(
    ctx: typer.Context,
    which: Which,
    *,
    no_wait: NoWait = False,
    workspace: Workspace = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        found = _found(session, which)
        path = started(session.client.send("POST", f"{_path(session, found)}/cancel"))
        operation = session.client.document("GET", path)
        if no_wait:
            session.data(operation, Rows(("OPERATION",), [[name_of(operation)]]))
            return
        operation = follow(session, path, f"Cancelling {found}")
        session.data(session.client.get(MOVE, found.name, found.workspace))
        if ended(operation) is OperationState.SUCCEEDED:
            session.say(f"{found} had switched already: it is done.")
        else:
            session.say(f"{found}: {operation['status']['outcome']}.")


def _decision(action: str, help_text: str) -> None:
    """A command that tells a move on its way what somebody decided."""

    @command(app, action, f"fedctl moves {action} web-1", f"fedctl moves {action} shop/web-1-2",
             text=help_text)  # fmt: skip
    def decide(
        ctx: typer.Context,
        which: Which,
        workspace: Workspace = None,
        output: Output = Form.TABLE,
    ) -> None:
        with Session(ctx, form=output, workspace=workspace) as session:
            found = _found(session, which)
            path = started(session.client.send("POST", f"{_path(session, found)}/{action}"))
            operation = session.client.document("GET", path)
            session.data(operation, Rows(("OPERATION",), [[name_of(operation)]]))
            session.say(f"{found}: told to {action}; fedctl operation watch {name_of(operation)}")


_decision("cutover", "Stops the source of a warm move now, and finishes it.")
_decision("hold", "Keeps a warm move copying, and does not let it cut over.")
_decision("resume", "Lets a warm move that is on hold cut over when it can.")
_decision(
    "forward",
    "Finishes a move whose source cannot return: its copy at the target, proven, becomes the home.",
)


@command(
    app,
    "retry",
    "fedctl moves retry web-1",
    "fedctl moves retry web-1 --no-wait",
    text="Plans anew and runs; what was copied before is used.",
)
def retry(
    ctx: typer.Context,
    which: Which,
    *,
    no_wait: NoWait = False,
    workspace: Workspace = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        found = _found(session, which)
        path = started(session.client.send("POST", f"{_path(session, found)}/retry"))
        instance = Found(
            document={}, name=_instance_name(found.document), workspace=found.workspace
        )
        _run(session, instance, found.name, path, wait=not no_wait)


@command(
    app,
    "finalize",
    "fedctl moves finalize web-1",
    "fedctl moves finalize web-1 --yes",
    text="Deletes what a move left behind: the old copy, or a target that was not reached.",
)
def finalize(
    ctx: typer.Context,
    which: Which,
    *,
    yes: Yes = False,
    no_wait: NoWait = False,
    workspace: Workspace = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        found = _found(session, which)
        kept = [kept_text(each) for each in found.document["status"].get("retained", [])]
        what = ", ".join(kept) or "whatever is retained"
        if not session.agreed(f"Delete {what}? There is no way back then.", yes=yes):
            return
        answer = session.client.send("POST", f"{_path(session, found)}/finalize")
        if finish(session, answer, f"Finalizing {found}", wait=not no_wait) is not None:
            session.data(session.client.get(MOVE, found.name, found.workspace))
            session.say(f"Finalized {found}: nothing of it is retained any more.")


def _plan(session: Session, found: Found, called: str, spec: Mapping[str, object]) -> Doc:
    """The move with the plan that was made for it."""
    wish = {**spec, "planOnly": True}
    answer = session.client.put(MOVE, called, wish, workspace=found.workspace)
    operation = follow(session, started(answer), f"Planning the move of {found}")
    planned = session.client.get(MOVE, called, found.workspace)
    good = {OperationState.SUCCEEDED, OperationState.BLOCKED}
    if ended(operation) not in good:
        raise failed(str(found), planned, operation)
    return planned


def _run(session: Session, found: Found, called: str, path: str, *, wait: bool) -> None:
    if not wait:
        operation = session.client.document("GET", path)
        session.data(operation, Rows(("OPERATION",), [[name_of(operation)]]))
        return
    move_path = session.client.path(MOVE, called, found.workspace)
    site = session.client.document("GET", move_path)["spec"]["target"]["site"]
    operation = follow(session, path, f"Moving {found} to {site}")
    after = session.client.document("GET", move_path)
    session.data(after)
    outcome = ended(operation)
    if outcome is OperationState.BLOCKED:
        raise blocked(str(found), site, after)
    if outcome is not OperationState.SUCCEEDED:
        raise failed(str(found), after, operation)
    now = session.client.get(INSTANCE, found.name, found.workspace)
    session.say(moved_text(str(found), after, operation, now["extensions"].get("fedctl:address")))


def _found(session: Session, text: str, *, plans: bool = False) -> Found:
    """The move of that name, or the newest of that instance.

    One that was only planned counts with `plans`, or where nothing else was asked for.
    """
    workspace, _, name = text.rpartition("/")
    only = workspace or session.named_workspace
    found = [
        Found(document=each, name=each["metadata"]["name"], workspace=place)
        for place in ([only] if only else workspace_names(session))
        for each in session.client.list(MOVE, place)
    ]
    if named := [each for each in found if each.name == name]:
        return _newest(named)
    if of_instance := [each for each in found if _instance_name(each.document) == name]:
        places = {each.workspace for each in of_instance}
        if len(places) > 1:
            raise Stopped(
                f"{name!r} is an instance in several workspaces: say workspace/name",
                exit_code=2,
                notes=tuple(f"  {place}/{name}" for place in sorted(places)),
            )
        begun = [each for each in of_instance if not each.document["spec"].get("planOnly")]
        return _newest(of_instance if plans else begun or of_instance)
    raise NotFound(f"there is no move {text!r}, and no move of an instance of that name")


def _newest(found: list[Found]) -> Found:
    return max(found, key=lambda each: str(each.document["metadata"]["createdAt"]))


def _path(session: Session, found: Found) -> str:
    return session.client.path(MOVE, found.name, found.workspace)


def _instance_name(document: Doc) -> str:
    return str(document["spec"]["instanceRef"]["resource"]).rpartition("/")[2]


def _downtime(status: Doc) -> str:
    down = status.get("downtimeSeconds")
    return "" if down is None else units.seconds(down)


def _fresh_name(session: Session, found: Found) -> str:
    """`web-1-2` for the second move of web-1."""
    taken = {each["metadata"]["name"] for each in session.client.list(MOVE, found.workspace)}
    number = 1
    while f"{found.name}-{number}" in taken:
        number += 1
    return f"{found.name}-{number}"


def _check(text: str) -> Doc:
    """`booted:TEXT@60s` as the API has it."""
    words, _, wait = text.rpartition("@") if "@" in text else (text, "", "")
    kind, _, pattern = words.partition(":")
    if kind not in set(CheckKind):
        raise Invalid(f"--check is {text!r}: write powered, booted or booted:TEXT")
    found: Doc = {"kind": kind}
    found |= {"pattern": pattern} if pattern else {}
    found |= {"within": seconds(wait, "--check")} if wait else {}
    return found


def _cutover(when: str | None, until: str | None) -> dict[str, object]:
    wish: dict[str, object] = {}
    if when == "manual":
        wish["mode"] = "manual"
    elif when:
        wish["notBefore"] = when
    if until:
        wish["notAfter"] = until
    return {"cutover": wish} if wish else {}


def _networks(mapped: list[str], readdressed: list[str]) -> list[Doc]:
    """A rule for each network of the source that is named."""
    rules: dict[str, Doc] = {}
    for text in mapped:
        source, equals, target = text.partition("=")
        if not equals:
            raise Invalid(f"--network is {text!r}: write FROM=TO")
        rules[source] = {"from": source, "to": target}
    for source in readdressed:
        rules[source] = {**rules.get(source, {"from": source}), "address": "new"}
    return list(rules.values())


def _waiver(text: str) -> Doc:
    finding, equals, reason = text.partition("=")
    if not equals or not reason.strip():
        raise Invalid(f"--waive is {text!r}: write ID=REASON")
    return {"finding": finding, "reason": reason.strip()}
