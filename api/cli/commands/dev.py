"""fedctl dev: the whole system on this machine, as processes of its own."""

import signal
import subprocess
import sys
from types import FrameType

import typer

MODULE = "api.embedded"


def dev(ctx: typer.Context) -> None:
    """Starts the embedded system and waits for it; Ctrl-C stops it cleanly."""
    child = subprocess.Popen([sys.executable, "-m", MODULE, *ctx.args])

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
