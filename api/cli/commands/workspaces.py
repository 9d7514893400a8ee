"""fedctl workspace: where a tenant's resources live."""

from typing import Annotated

import typer

from api.cli import units
from api.cli.completion import offering
from api.cli.names import find
from api.cli.session import Form, Output, Rows, Session, Yes, command, field
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
WORKSPACE = facts(Kind.WORKSPACE)


@command(
    app,
    "create",
    "fedctl workspace create shop",
    "fedctl workspace create shop -o json",
    text="Makes one.",
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="At most 64 characters.")],
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        made = session.client.put(WORKSPACE, name, {})
        session.data(made.json())
        there = "Created" if made.status_code == 201 else "There is"  # noqa: PLR2004  # HTTP's own
        session.say(f"{there} workspace {name}.")


@command(app, "list", "fedctl workspace list", "fedctl workspace list -o json", text="Lists them.")
def list_workspaces(ctx: typer.Context, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        items = session.client.list(WORKSPACE)
        rows = [
            (
                each["metadata"]["name"],
                each["status"]["state"],
                field(each, "status", "resourceCount"),
                units.age(each["metadata"]["createdAt"]),
            )
            for each in items
        ]
        session.data(items, Rows(("NAME", "STATE", "RESOURCES", "AGE"), rows))


@command(
    app,
    "delete",
    "fedctl workspace delete shop",
    "fedctl workspace delete shop --yes",
    text="Deletes an empty one.",
)
def delete(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="The workspace.", autocompletion=offering(Kind.WORKSPACE))
    ],
    *,
    yes: Yes = False,
) -> None:
    with Session(ctx) as session:
        found = find(session, Kind.WORKSPACE, name)
        if session.agreed(f"Delete workspace {found.name}?", yes=yes):
            session.client.send("DELETE", session.client.path(WORKSPACE, found.name))
            session.say(f"Deleted workspace {found.name}.")
