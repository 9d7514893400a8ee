"""fedctl protection: instances whose recovery points are taken together, or not at all."""

from typing import Annotated

import typer

from api.cli import units
from api.cli.client import Doc
from api.cli.commands.access import seconds
from api.cli.completion import offering
from api.cli.names import Found, find, split, workspace_names
from api.cli.session import Facts, Form, Output, Rows, Session, Workspace, Yes, command, field
from api.cli.watch import finish
from controlplane.domain.errors import Invalid
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
PROTECTION = facts(Kind.PROTECTION)
Name = Annotated[
    str,
    typer.Argument(help="Its name, or workspace/name.", autocompletion=offering(Kind.PROTECTION)),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]


@command(
    app,
    "create",
    "fedctl protection create nightly web-1 db-1",
    "fedctl protection create shop/nightly web-1 db-1 --max-spread 5s",
    text="Names instances whose recovery points are taken together; takes none yet.",
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What to call it, or workspace/name.")],
    members: Annotated[
        list[str],
        typer.Argument(help="Instances of that workspace.", autocompletion=offering(Kind.INSTANCE)),
    ],
    *,
    max_spread: Annotated[
        str | None,
        typer.Option("--max-spread", help="Time from first to last snapshot at most, as in 5s."),
    ] = None,
    workspace: Workspace = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        where, called = split(session, name)
        spec: dict[str, object] = {"members": [_member(each, where) for each in members]}
        if max_spread is not None:
            spec["maxSpread"] = seconds(max_spread, "--max-spread")
        made = session.client.put(PROTECTION, called, spec, workspace=where)
        session.data(made.json())
        session.say(f"{where}/{called} protects {', '.join(members)} together.")
        session.say(f"next    fedctl protection sync {where}/{called}")


@command(
    app,
    "list",
    "fedctl protection list",
    "fedctl protection list -w shop -o json",
    text="Lists them, with their newest points.",
)
def list_protections(
    ctx: typer.Context, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        places = [workspace] if workspace else workspace_names(session)
        items = [(p, each) for p in places for each in session.client.list(PROTECTION, p)]
        rows = [
            (
                f"{place}/{each['metadata']['name']}",
                len(each["spec"]["members"]),
                _newest(each) or "none",
                _spread(each),
                each["status"]["state"],
            )
            for place, each in items
        ]
        columns = ("NAME", "MEMBERS", "NEWEST", "SPREAD", "STATE")
        session.data([each for _, each in items], Rows(columns, rows))


@command(
    app,
    "show",
    "fedctl protection show nightly",
    "fedctl protection show shop/nightly -o yaml",
    text="Shows one and its newest points.",
)
def show(
    ctx: typer.Context, name: Name, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        _show(session, find(session, Kind.PROTECTION, name))


@command(
    app,
    "sync",
    "fedctl protection sync nightly",
    "fedctl protection sync shop/nightly --no-wait",
    text="Takes recovery points of all its instances now: all of them, or none.",
)
def sync(
    ctx: typer.Context,
    name: Name,
    *,
    workspace: Workspace = None,
    no_wait: NoWait = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        found = find(session, Kind.PROTECTION, name)
        path = f"{session.client.path(PROTECTION, found.name, found.workspace)}/sync"
        answer = session.client.send("POST", path)
        if finish(session, answer, f"Taking points of {found}", wait=not no_wait) is None:
            return
        _show(session, find(session, Kind.PROTECTION, str(found)))


@command(
    app,
    "delete",
    "fedctl protection delete nightly",
    "fedctl protection delete shop/nightly --yes",
    text="Takes no more points. Those that stand stay.",
)
def delete(
    ctx: typer.Context, name: Name, *, yes: Yes = False, workspace: Workspace = None
) -> None:
    with Session(ctx, workspace=workspace) as session:
        found = find(session, Kind.PROTECTION, name)
        if session.agreed(f"Delete protection {found}? Its points stay.", yes=yes):
            path = session.client.path(PROTECTION, found.name, found.workspace)
            session.client.send("DELETE", path)
            session.say(f"Deleted protection {found}.")


def _member(text: str, workspace: str) -> str:
    place, _, name = text.rpartition("/")
    if place and place != workspace:
        raise Invalid(f"instance {text} is not in workspace {workspace}: name one that is")
    return name


def _show(session: Session, found: Found) -> None:
    it = found.document
    facts_: dict[str, object] = {
        "name": str(found),
        "members": ", ".join(it["spec"]["members"]),
        "max spread": _wished(it),
        "state": it["status"]["state"],
        "newest": _newest(it),
        "spread": _spread(it),
    }
    facts_ |= {
        f"point of {each['instance']}": (
            f"{each['point']}, {units.size(each['bytesNew'])} new of"
            f" {units.size(each['bytesRead'])} read"
        )
        for each in it["status"].get("points", [])
    }
    session.data(it, Facts(facts_))


def _newest(it: Doc) -> str | None:
    at = field(it, "status", "newestPointAt")
    return units.local(at) if at else None


def _spread(it: Doc) -> str | None:
    spread = field(it, "status", "spreadSeconds")
    return None if spread in {None, ""} else f"at most {spread:.3f} s"


def _wished(it: Doc) -> str | None:
    return f"{it['spec']['maxSpread']:g} s" if "maxSpread" in it["spec"] else None
