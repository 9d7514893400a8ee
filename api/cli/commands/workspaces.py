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
_RETENTION = "fedctl:retention"


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
    "retention",
    "fedctl workspace retention shop last:3,daily:7,weekly:4",
    "fedctl workspace retention shop none",
    text="Which recovery points of its instances are kept: the newest, so many last ones, and the"
    " newest of so many hours, days, weeks, months and years. Without one they go with the old"
    " copies of their move.",
)
def retention(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(help="The workspace.", autocompletion=offering(Kind.WORKSPACE))
    ],
    policy: Annotated[
        str | None, typer.Argument(help="Such as last:3,daily:7, or none; shown when left out.")
    ] = None,
) -> None:
    with Session(ctx) as session:
        found = find(session, Kind.WORKSPACE, name)
        document = found.document
        extensions = dict(document["extensions"])
        if policy is not None:
            extensions.pop(_RETENTION, None)
            extensions |= {} if policy == "none" else {_RETENTION: policy}
            body = {
                "spec": document["spec"],
                "labels": document["labels"],
                "annotations": document["annotations"],
                "extensions": extensions,
            }
            path = session.client.path(WORKSPACE, found.name)
            extensions = session.client.send("PUT", path, json=body).json()["extensions"]
        kept = extensions.get(_RETENTION)
        session.say(
            f"{found.name}: recovery points are kept by {kept}."
            if kept
            else f"{found.name}: recovery points go with the old copies of their move."
        )
        if policy == "none":
            session.say(
                "  note    those that were kept so far stay until they are deleted"
                " (fedctl recovery-points delete) or the instance's moves finalized"
            )


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
