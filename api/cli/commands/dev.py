"""fedctl dev, backup: what runs beside the API, as processes of its own."""

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from api.cli.session import Session, Yes, command

MODULE = "api.embedded"
BACKUP = "api.backup"
backup_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
File = Annotated[Path, typer.Argument(help="The backup.")]
State = Annotated[
    Path | None, typer.Option("--state", help="The folder of a fedctl dev; else FEDCTL_* settings.")
]


def dev(ctx: typer.Context) -> None:
    """Starts the embedded system and waits for it; Ctrl-C stops it cleanly."""
    run(MODULE, *ctx.args)


@command(
    backup_app,
    "create",
    "fedctl backup create /safe/monday.fedctl",
    "fedctl backup create monday.fedctl --state ~/fedctl-dev",
    text="Writes all of the control plane's state into one encrypted file, while it runs.",
)
def create(ctx: typer.Context, file: File, *, state: State = None) -> None:
    del ctx
    run(BACKUP, "create", *_given(file, state))


@command(
    backup_app,
    "verify",
    "fedctl backup verify /safe/monday.fedctl",
    "fedctl backup verify monday.fedctl --state ~/fedctl-dev",
    text="Reads all of a backup and tells whether it is whole and opens.",
)
def verify(ctx: typer.Context, file: File, *, state: State = None) -> None:
    del ctx
    run(BACKUP, "verify", *_given(file, state))


@command(
    backup_app,
    "restore",
    "fedctl backup restore /safe/monday.fedctl",
    "fedctl backup restore monday.fedctl --state ~/fedctl-dev --yes",
    text="Begins a new life of the control plane in an empty database; every site is frozen until"
    " it was surveyed.",
)
def restore(ctx: typer.Context, file: File, *, state: State = None, yes: Yes = False) -> None:
    with Session(ctx) as session:
        question = (
            "Begin a new life of this control plane from the backup? An old one must not run any"
            " more, and all API tokens end."
        )
        agreed = session.agreed(question, yes=yes)
    if agreed:
        run(BACKUP, "restore", *_given(file, state))


def _given(file: Path, state: Path | None) -> list[str]:
    return [str(file), *([] if state is None else ["--state", str(state)])]


def run(module: str, *arguments: str) -> None:
    """A process of its own, to its end and with its exit code."""
    child = subprocess.Popen([sys.executable, "-m", module, *arguments])

    def pass_on(number: int, _: FrameType | None) -> None:
        child.send_signal(number)

    # Ctrl-C reaches the child by itself: it belongs to the same foreground group.
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    raise typer.Exit(code if code >= 0 else 128 - code)
