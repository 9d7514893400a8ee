"""fedctl config: what the command goes by."""

from dataclasses import asdict
from typing import Annotated

import typer

from api.cli.effective import effective
from api.cli.session import Form, Output, Rows, Session, Workspace, command

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@command(
    app,
    "view",
    "fedctl config view",
    "fedctl config view --show-origin",
    text="Shows each setting that takes effect; tokens are masked.",
)
def view(
    ctx: typer.Context,
    *,
    show_origin: Annotated[
        bool, typer.Option("--show-origin", help="Say where each came from.")
    ] = False,
    workspace: Workspace = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        settings = [asdict(each) for each in effective(ctx, session)]
        names = ("name", "value", "origin") if show_origin else ("name", "value")
        shown = [{name: each[name] for name in names} for each in settings]
        columns = [name.upper() for name in names]
        session.data(shown, Rows(columns, [tuple(each.values()) for each in shown]))
