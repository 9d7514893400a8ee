"""The fedctl command: a client of the API that knows no internals."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from api.cli.commands import (
    access,
    audit,
    config,
    images,
    instances,
    moves,
    operations,
    orphans,
    points,
    protections,
    sites,
    support,
    vault,
    workspaces,
)
from api.cli.commands.dev import backup_app, dev
from api.cli.commands.events import events
from api.cli.completion import contexts
from api.cli.contexts import Globals
from api.cli.failure import Stopped, named
from api.cli.session import SHOW_REQUEST_HELP, command, examples
from api.schemas.version import fedctl_version
from controlplane.domain.errors import FedctlError


class _Program(TyperGroup):
    """Turns every named failure into its text and its exit code."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  # Typer keeps its own copy of click's types
        try:
            return super().invoke(ctx)
        except FedctlError as e:
            raise _told(named(e)) from e
        except Stopped as e:
            raise _told(e) from e
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output has gone: nothing is left to say
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            raise _told(Stopped("Stopped.", exit_code=130)) from None


def _told(stopped: Stopped) -> typer.Exit:
    sys.stderr.write(f"{stopped.text}\n")
    for note in stopped.notes:
        sys.stderr.write(f"  {note}\n" if note else "\n")
    return typer.Exit(stopped.exit_code)


app = typer.Typer(
    cls=_Program,
    name="fedctl",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help=examples(
        "fedctl dev",
        "fedctl move web-1 --to par-pve --plan",
        text="Runs instances on several sites, and moves them between these.",
    ),
)


def _version(asked: bool) -> None:  # noqa: FBT001  # Typer calls it so
    if asked:
        sys.stdout.write(f"fedctl {fedctl_version()}\n")
        raise typer.Exit


@app.callback()
def program(
    ctx: typer.Context,
    *,
    url: Annotated[
        str | None, typer.Option("--url", help="Where fedctl runs.", envvar="FEDCTL_URL")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="An API token.", envvar="FEDCTL_TOKEN")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="The tenant.", envvar="FEDCTL_TENANT")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            help="A saved context.",
            envvar="FEDCTL_CONTEXT",
            autocompletion=contexts,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="The context file.", envvar="FEDCTL_CONFIG")
    ] = None,
    show_request: Annotated[bool, typer.Option("--show-request", help=SHOW_REQUEST_HELP)] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Which fedctl this is.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    del version
    ctx.obj = Globals(
        url=url,
        token=token,
        tenant=tenant,
        context=context,
        config=config,
        show_request=show_request,
    )


command(
    app,
    "dev",
    "fedctl dev",
    "fedctl dev --state ~/fedctl-dev",
    text="Starts the whole system here, with five simulated sites; Ctrl-C stops it. --state FOLDER"
    " keeps it there, --profile realistic|fast|steady is how its sites behave, --seed N which"
    " faults they have.",
    passes_on=True,
)(dev)
command(
    app,
    "login",
    "fedctl login http://127.0.0.1:8700 --user ada",
    "fedctl login https://fedctl.example --user ada --password-stdin < password",
    text="Logs in and saves a context.",
)(access.login)
app.add_typer(access.context_app, name="context", help="Saved control planes.")
app.add_typer(config.app, name="config", help="What this command goes by.")
app.add_typer(access.token_app, name="token", help="API tokens of your own.")
app.add_typer(sites.app, name="site", help="Provider endpoints.")
app.add_typer(workspaces.app, name="workspace", help="Where resources live.")
app.add_typer(images.app, name="image", help="Disk images.")
app.add_typer(instances.app, name="instance", help="Virtual machines and servers.")
command(
    app,
    "move",
    "fedctl move web-1 --to par-pve --plan",
    "fedctl move web-1 --to par-pve --max-downtime 3m --check booted --yes",
    text="Moves an instance to another site: shows the plan, asks, runs it.",
)(moves.move)
app.add_typer(moves.app, name="moves", help="Moves that were made or planned.")
app.add_typer(protections.app, name="protection", help="Recovery points taken together.")
app.add_typer(operations.app, name="operation", help="Durable pieces of work.")
command(
    app,
    "events",
    "fedctl events",
    "fedctl events -w shop -o jsonl --limit 1",
    text="Follows what changes, as far as you may see it; goes on by itself after a break.",
)(events)
app.add_typer(backup_app, name="backup", help="The control plane's own state.")
app.add_typer(audit.app, name="audit", help="The audit log.")
command(
    app,
    "sweep",
    "fedctl sweep",
    "fedctl sweep par-pve",
    text="Compares what lies at the sites with what is recorded; deletes nothing.",
)(sites.sweep)
app.add_typer(orphans.app, name="orphans", help="What sweeps found unaccounted for.")
app.add_typer(points.app, name="recovery-points", help="Copies of instances' disks, kept.")
app.add_typer(vault.app, name="vault", help="What is stored of disks: checks and figures.")
app.add_typer(support.app, name="support", help="What to send to somebody who helps.")


if __name__ == "__main__":
    app()
