"""Child processes of tests: none outlives its block, so none holds up a run."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Runs while the block does; killed at its end unless it has ended."""
    with subprocess.Popen(command, text=True, **options) as running:
        try:
            yield running
        finally:
            running.kill()
