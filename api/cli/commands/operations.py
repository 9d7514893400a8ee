"""fedctl operation: every durable piece of work, its steps and how it ended."""

from typing import Annotated

import typer

from api.cli import units
from api.cli.client import Client, Doc
from api.cli.completion import offering
from api.cli.failure import Stopped
from api.cli.names import workspace_names
from api.cli.session import Form, Output, Rows, Session, Workspace, command
from api.cli.watch import check, follow, name_of, progress_line, reasons, running_copies, step_line
from api.schemas.errors import EXIT
from controlplane.domain.errors import Denied, Invalid, NotFound
from controlplane.domain.kinds import Scope, facts
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Which = Annotated[
    str,
    typer.Argument(help="Its name, or workspace/name.", autocompletion=offering(Kind.OPERATION)),
]
_SCOPES = (Scope.TENANT, Scope.GLOBAL)
_RECENT = 50
_HIDDEN = frozenset({EXIT[Denied], EXIT[NotFound]})


@command(
    app,
    "list",
    "fedctl operation list",
    "fedctl operation list -w shop -o json",
    text="Newest first.",
)
def list_operations(
    ctx: typer.Context, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        items = sorted(
            recent_operations(session, limit=_RECENT),
            key=lambda o: o["metadata"]["createdAt"],
            reverse=True,
        )
        rows = [
            (
                name_of(each),
                each["spec"]["kind"],
                each["spec"]["subject"],
                each["status"]["operationState"],
                each["status"].get("phase", ""),
                _took(each),
                units.age(each["metadata"]["createdAt"]),
                each["status"].get("waitsFor", ""),
            )
            for each in items
        ]
        columns = ("NAME", "KIND", "SUBJECT", "STATE", "PHASE", "TOOK", "AGE", "WAITS FOR")
        session.data(items, Rows(columns, rows))


@command(
    app,
    "show",
    "fedctl operation show move-web-1-1",
    "fedctl operation show shop/move-web-1-1 -o json",
    text="Shows one with the cost of each step.",
)
def show(
    ctx: typer.Context, which: Which, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        operation = session.client.document("GET", _path(session, which))
        status = operation["status"]
        session.data(operation, Rows(_COLUMNS, [_row(step) for step in status["steps"]]))
        session.say(f"{name_of(operation)}: {operation['spec']['kind']} of {_subject(operation)}")
        phase = f", {status['phase']}" if status.get("phase") else ""
        session.say(f"  state   {status['operationState']}{phase}")
        if status.get("waitsFor"):
            session.say(f"  waits   {status['waitsFor']}")
        session.say(
            f"  asked   by {operation['spec']['actor']}, request {operation['spec']['request']}"
        )
        for copy in running_copies(operation):
            session.say(progress_line(copy, operation))
        if status.get("problem") or status.get("findings"):
            for line in reasons(operation)[:-1]:
                session.say(f"  {line}")


@command(
    app,
    "watch",
    "fedctl operation watch move-web-1-1",
    "fedctl operation watch shop/move-web-1-1",
    text="Follows one to its end; exits as it ended.",
)
def watch(
    ctx: typer.Context, which: Which, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        path = _path(session, which)
        operation = session.client.document("GET", path)
        title = f"{operation['spec']['kind']} of {_subject(operation)}"
        operation = follow(session, path, title)
        session.data(operation)
        check(operation, what=title)
        session.say(f"{title}: done.")


@command(
    app,
    "cancel",
    "fedctl operation cancel move-web-1-1",
    "fedctl operation cancel shop/provision-web-1-1",
    text="Asks it to stop and to undo what it did.",
)
def cancel(
    ctx: typer.Context, which: Which, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        path = _path(session, which)
        session.client.send("POST", f"{path}/cancel")
        operation = session.client.document("GET", path)
        session.data(operation)
        session.say(f"Asked {name_of(operation)} to stop.")
        session.say(f"  look    fedctl operation watch {name_of(operation)}")


_COLUMNS = ("STEP", "STATE", "TRIES", "TOOK", "PROVIDER", "COPY", "OVERHEAD", "NOTE")


def _row(step: Doc) -> tuple[object, ...]:
    took = units.seconds(step["seconds"]) if "seconds" in step else step_line(step)[2:4]
    return (
        step["name"],
        step["state"],
        step["attempts"],
        took,
        units.seconds(step["providerSeconds"]),
        units.seconds(step["copySeconds"]),
        units.seconds(step.get("overheadSeconds", 0.0)),
        step.get("message", ""),
    )


def _subject(operation: Doc) -> str:
    return str(operation["spec"]["subject"])


def _took(operation: Doc) -> str:
    status = operation["status"]
    if not status.get("startedAt") or not status.get("endedAt"):
        return ""
    passed = units.moment(status["endedAt"]) - units.moment(status["startedAt"])
    return units.seconds(passed.total_seconds())


def recent_operations(session: Session, *, limit: int) -> list[Doc]:
    """Those of the workspace that was named, or of all that may be seen."""
    only = session.named_workspace
    client = session.client
    if only:
        return client.list(facts(Kind.OPERATION, Scope.WORKSPACE), only, limit=limit)
    found = [
        each
        for place in workspace_names(session)
        for each in client.list(facts(Kind.OPERATION, Scope.WORKSPACE), place, limit=limit)
    ]
    for scope in _SCOPES:
        found += _visible(client, scope, limit)
    return found


def _visible(client: Client, scope: Scope, limit: int) -> list[Doc]:
    """What lies above workspaces, for those who may see it."""
    try:
        return client.list(facts(Kind.OPERATION, scope), limit=limit)
    except Stopped as e:
        if e.exit_code not in _HIDDEN:
            raise
        return []


def _path(session: Session, text: str) -> str:
    """The path of the operation that `text` names."""
    workspace, _, name = text.rpartition("/")
    if workspace:
        return session.client.path(facts(Kind.OPERATION, Scope.WORKSPACE), name, workspace)
    every = recent_operations(session, limit=10_000)
    exact = [each for each in every if each["metadata"]["name"] == name]
    found = exact or [each for each in every if each["metadata"]["name"].startswith(name)]
    if not found:
        raise NotFound(f"there is no operation {text!r}: list them (fedctl operation list)")
    if len(found) > 1:
        raise Stopped(
            f"{text!r} may be any of {len(found)} operations: write workspace/name",
            exit_code=EXIT[Invalid],
            notes=tuple(f"  {name_of(each)}" for each in found[:10]),
        )
    return f"/providers/{found[0]['metadata']['ref']}"
