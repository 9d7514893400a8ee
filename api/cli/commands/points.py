"""fedctl recovery-points: copies of instances' disks that are kept, and why."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from api.cli import units
from api.cli.client import Doc
from api.cli.commands.dev import State, run
from api.cli.completion import offering
from api.cli.names import find, workspace_names
from api.cli.session import Facts, Form, Output, Rows, Session, Workspace, Yes, command
from api.cli.watch import finish
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
EXTRACT = "api.extract"
POINT = facts(Kind.RECOVERY_POINT)
Point = Annotated[
    str,
    typer.Argument(
        help="Its name, such as web-1.3, or workspace/name.",
        autocompletion=offering(Kind.RECOVERY_POINT),
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]


@command(
    app,
    "list",
    "fedctl recovery-points list",
    "fedctl recovery-points list -w shop -o json",
    text="Lists them: when each was taken, what it brought, and why it is kept.",
)
def list_points(
    ctx: typer.Context, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        named = session.named_workspace
        places = [named] if named else workspace_names(session)
        items = [each for place in places for each in session.client.list(POINT, place)]
        rows = [
            (
                f"{each['metadata']['workspace']}/{each['metadata']['name']}",
                units.local(each["spec"]["takenAt"]),
                units.size(each["status"]["bytes"]),
                units.size(each["status"]["bytesStored"]),
                units.day(each["status"]["expiresAt"]) if "expiresAt" in each["status"] else "",
                _kept(each),
            )
            for each in items
        ]
        columns = ("NAME", "TAKEN", "SIZE", "STORED", "UNTIL", "KEPT")
        session.data(items, Rows(columns, rows))


@command(
    app,
    "show",
    "fedctl recovery-points show web-1.3",
    "fedctl recovery-points show shop/web-1.3 -o yaml",
    text="Shows one, with the digests of its disks and when it was last verified.",
)
def show(
    ctx: typer.Context, point: Point, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        found = find(session, Kind.RECOVERY_POINT, point)
        document = session.client.get(POINT, found.name, found.workspace)
        status = document["status"]
        fields: dict[str, object] = {
            "name": str(found),
            "point": status["point"],
            "taken": units.local(document["spec"]["takenAt"]),
            "size": units.size(status["bytes"]),
            "stored": units.size(status["bytesStored"]),
            "kept": _kept(document),
            "until": units.local(status["expiresAt"]) if "expiresAt" in status else None,
            "verified": units.local(status["verifiedAt"]) if "verifiedAt" in status else "never",
        }
        for disk in status["disks"]:
            fields[f"disk {disk['disk']}"] = f"{units.size(disk['sizeBytes'])}  {disk['digest']}"
        session.data(document, Facts(fields))


@command(
    app,
    "verify",
    "fedctl recovery-points verify web-1.3",
    "fedctl recovery-points verify shop/web-1.3 --no-wait",
    text="Reads all of it back and compares the digests; names the first place that is damaged.",
)
def verify(
    ctx: typer.Context,
    point: Point,
    *,
    workspace: Workspace = None,
    no_wait: NoWait = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        found = find(session, Kind.RECOVERY_POINT, point)
        path = session.client.path(POINT, found.name, found.workspace)
        answer = session.client.send("POST", f"{path}/verify")
        done = finish(session, answer, f"Verifying {found}", wait=not no_wait)
        if done is not None:
            result = done["status"]["result"]
            session.data(done)
            session.say(f"{found} reads back: {result['disks']} disk(s) equal.")


@command(
    app,
    "delete",
    "fedctl recovery-points delete web-1.3",
    "fedctl recovery-points delete shop/web-1.3 --yes",
    text="Forgets one that no copy at a site and no operation needs.",
)
def delete(
    ctx: typer.Context,
    point: Point,
    *,
    workspace: Workspace = None,
    yes: Yes = False,
    no_wait: NoWait = False,
) -> None:
    with Session(ctx, workspace=workspace) as session:
        found = find(session, Kind.RECOVERY_POINT, point)
        taken = units.local(found.document["spec"]["takenAt"])
        if session.agreed(f"Delete recovery point {found}, taken {taken}?", yes=yes):
            path = session.client.path(POINT, found.name, found.workspace)
            answer = session.client.send("DELETE", path)
            if finish(session, answer, f"Deleting {found}", wait=not no_wait) is not None:
                session.say(f"Deleted {found}.")


def _kept(point: Doc) -> str:
    return "; ".join(point["status"]["kept"]) or "until the next round of housekeeping"


@command(
    app,
    "extract",
    "fedctl recovery-points extract 6f1a6a2c-8d0e-4b39-9d6f-0f3c2a1b7e55 web-1.raw",
    "fedctl recovery-points extract 6f1a6a2c-8d0e-4b39-9d6f-0f3c2a1b7e55 b.raw --disk 1",
    text="Writes a disk of a point into a raw file on this machine. Runs where the control plane's"
    " settings are, and needs neither its API nor Temporal.",
)
def extract(
    ctx: typer.Context,
    point: Annotated[UUID, typer.Argument(help="The point, as show tells it.")],
    file: Annotated[Path, typer.Argument(help="A file that is not there yet.")],
    *,
    disk: Annotated[int, typer.Option("--disk", help="Its number.", min=0)] = 0,
    state: State = None,
) -> None:
    del ctx
    more = [] if state is None else ["--state", str(state)]
    run(EXTRACT, str(point), str(file), "--disk", str(disk), *more)
