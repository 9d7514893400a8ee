"""`fedctl recovery-points extract`: a disk of a point into a raw file, without API and Temporal.

Reads FEDCTL_* settings, or those of a `fedctl dev` whose folder is given: it needs the database,
the vault's store and the key agent. The use of keys is audited as that of any process.
"""

import argparse
import contextlib
import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import monotonic
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from api.beside import of_embedded
from api.cli import units
from api.cli.failure import named
from api.embedded import State
from controlplane.domain.errors import (
    Conflict,
    Denied,
    Exhausted,
    FedctlError,
    NotFound,
    Unavailable,
)
from controlplane.domain.ids import PointId
from controlplane.services.assembly import assemble
from controlplane.settings import Settings
from controlplane.vault.nouns import CopyProgress, CopyStopped
from controlplane.vault.reading import PointReader
from controlplane.vault.restoring import restore

_STOPPED = 130


def main() -> int:
    given = _arguments()
    try:
        with contextlib.ExitStack() as stack:
            if given.state is not None:
                stack.enter_context(of_embedded(State(folder=given.state.resolve())))
            parts = assemble(Settings(), process="extract")
            stack.callback(parts.close)
            parts.store.await_schema(timedelta(0))
            began = monotonic()
            disk = stack.enter_context(closing(parts.vault.open(PointId(given.point), given.disk)))
            _extracted(disk, given.file)
    except CopyStopped:
        sys.stderr.write(f"Stopped; {given.file} was removed.\n")
        return _STOPPED
    except FedctlError as error:
        stopped = named(error)
        sys.stderr.write(f"{stopped.text}\n")
        return stopped.exit_code
    sys.stdout.write(
        f"{given.file}: {units.size(disk.size)} in {units.seconds(monotonic() - began)},"
        f" every block checked\n  digest  {disk.digest}\n"
    )
    return 0


def _extracted(disk: PointReader, file: Path) -> None:
    """A whole file, or none."""
    with _translated(file):
        file.touch(mode=0o600, exist_ok=False)  # it was encrypted until now
    try:
        with (
            _translated(file), file.open("r+b", buffering=0) as out, _stoppable() as stopped,
            _shown(disk.size) as progress,
        ):  # fmt: skip
            restore(disk, out.fileno(), progress=progress, cancelled=stopped)
    except BaseException:
        file.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _translated(file: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as e:
        raise Conflict(f"{file} is there already: name a file that is not") from e
    except FileNotFoundError as e:
        raise NotFound(f"{file}: there is no such folder") from e
    except PermissionError as e:
        raise Denied(f"{file}: the folder refuses us") from e
    except OSError as e:
        if e.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Exhausted(f"{file}: no room for it: free some, or name another place") from e
        raise Unavailable(f"{file}: {e.strerror}") from e


@contextlib.contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    told: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: told.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _shown(total: int) -> Iterator[Callable[[CopyProgress], None]]:
    bar = Progress(
        BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=Console(stderr=True),
        transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=total)
        yield lambda seen: bar.update(task, completed=seen.done)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fedctl recovery-points extract", description=__doc__)
    parser.add_argument("point", type=UUID)
    parser.add_argument("file", type=Path)
    parser.add_argument("--disk", type=int, default=0)
    parser.add_argument("--state", type=Path, help="the folder of a fedctl dev")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
