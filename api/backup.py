"""`fedctl backup`: the control plane's state to an encrypted file, and back into a new database.

Reads FEDCTL_* settings, or those of a `fedctl dev` whose folder is given. A restore begins a new
life of the control plane: no other process of it may run meanwhile.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from api.beside import check_begun, of_embedded
from api.cli.failure import named
from api.embedded import State, alone
from controlplane.domain.errors import FedctlError
from controlplane.services import backup
from controlplane.services.assembly import Assembly, SystemClock, assemble
from controlplane.services.backup import Written
from controlplane.settings import Settings
from workflows.restoring import Ground, Restored, restore


def main() -> int:
    given = _arguments()
    try:
        with contextlib.ExitStack() as stack:
            if given.state is not None:
                stack.enter_context(_embedded(State(folder=given.state.resolve()), given.verb))
            parts = assemble(Settings(), process="backup")
            stack.callback(parts.close)
            _say(_done(given.verb, parts, given.file))
    except FedctlError as error:
        stopped = named(error)
        sys.stderr.write(f"{stopped.text}\n")
        return stopped.exit_code
    return 0


def _done(verb: str, parts: Assembly, file: Path) -> list[str]:
    clock = SystemClock().now
    if verb == "create":
        return [
            "Written, and on disk.",
            *_written(backup.create(parts.store, parts.agent, file, clock())),
        ]
    if verb == "verify":
        return ["Whole, and opens.", *_written(backup.verify(parts.agent, file))]
    ground = Ground(
        store=parts.store,
        agent=parts.agent,
        keys=parts.keys,
        vault=parts.vault,
        homes=parts.homes,
        lives=parts.lives,
    )
    return _restored(restore(ground, file, clock))


def _written(written: Written) -> list[str]:
    header = written.header
    return [
        f"  taken      {header.created_at.isoformat(timespec='seconds')}",
        f"  size       {written.size} bytes, {sum(written.rows.values())} rows",
        f"  opened by  root key {header.root}, which is not in it: keep its sealed file and its",
        "             passphrase in another place, and the vault's store in a third",
    ]


def _restored(it: Restored) -> list[str]:
    vault = it.vault
    lines = [
        (
            f"Restored the state of {it.header.created_at.isoformat(timespec='seconds')};"
            f" this is life {it.life} of the control plane."
        ),
        (
            f"  from the store  {it.keys} newer keys, {vault.points} newer recovery points,"
            f" {len(it.homes)} newer homes"
        ),
        *(f"    {each}" for each in it.homes),
        f"  over            {len(it.operations)} operations that had not ended then",
        *(f"    {each}" for each in it.operations),
    ]
    if it.unknown:
        lines += [
            (
                f"  not known       {len(it.unknown)} homes of instances that were made later:"
                " they go on running, and nobody here manages them"
            ),
            *(f"    {each}" for each in it.unknown),
        ]
    if vault.unreadable:
        lines += ["  not usable", *(f"    {each}" for each in vault.unreadable)]
    if vault.broken_groups:
        lines += ["  not whole", *(f"    {each}" for each in vault.broken_groups)]
    return [
        *lines,
        "  void            every API token: log in again",
        f"  frozen          {', '.join(it.sites) or 'no site'}",
        "",
        (
            "Start the processes with an empty Temporal, log in, and survey every site before"
            " anything else:"
        ),
        "  fedctl site survey --all",
    ]


@contextlib.contextmanager
def _embedded(state: State, verb: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if verb == "restore":
            check_begun(state)
            stack.enter_context(alone(state))
            _put_aside(state.folder / "temporal.db")
        stack.enter_context(of_embedded(state))
        yield


def _put_aside(database: Path) -> None:
    """Temporal starts empty in a new life."""
    for path in (database, *database.parent.glob(f"{database.name}-*")):
        if path.exists():
            path.replace(path.with_name(f"before-restore.{path.name}"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fedctl backup", description=__doc__)
    parser.add_argument("verb", choices=("create", "verify", "restore"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--state", type=Path, help="the folder of a fedctl dev")
    return parser.parse_args()


def _say(lines: list[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
