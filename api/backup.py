"""`fedctl backup`: the control plane's state to an encrypted file, and back into a new database.

Reads FEDCTL_* settings, or those of a `fedctl dev` whose folder is given. A restore begins a new
life of the control plane: no other process of it may run meanwhile.
"""

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from time import monotonic

from api.cli.failure import named
from api.embedded import State, agent_command, alone, settings_of
from controlplane.domain.errors import FedctlError, NotFound, Unavailable
from controlplane.services import backup
from controlplane.services.assembly import Assembly, SystemClock, assemble
from controlplane.services.backup import Written
from controlplane.settings import Settings
from workflows.restoring import Ground, Restored, restore

_PATIENCE = 20.0
_LOOK = 0.05


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
    """The settings of a `fedctl dev`, and its key agent while it does not run itself."""
    if not state.passphrase.exists():
        raise NotFound(
            f"{state.folder} holds no passphrase: it is not the folder of a fedctl dev, or its root"
            " key and passphrase were not put there yet"
        )
    os.environ.update(settings_of(state))  # noqa: TID251  # a composition root
    with contextlib.ExitStack() as stack:
        if verb == "restore":
            stack.enter_context(alone(state))
            _put_aside(state.folder / "temporal.db")
        if not state.ready.exists():
            stack.enter_context(_agent(state))
        yield


def _put_aside(database: Path) -> None:
    """Temporal starts empty in a new life."""
    for path in (database, *database.parent.glob(f"{database.name}-*")):
        if path.exists():
            path.replace(path.with_name(f"before-restore.{path.name}"))


@contextlib.contextmanager
def _agent(state: State) -> Iterator[None]:
    log = state.folder / "logs" / "agent.log"
    with log.open("ab") as out:
        agent = subprocess.Popen(agent_command(state), stdout=out, stderr=subprocess.STDOUT)
    try:
        until = monotonic() + _PATIENCE
        while not state.agent_socket.exists():
            if agent.poll() is not None or monotonic() > until:
                raise Unavailable(f"the key agent did not start: see {log}")
            Event().wait(_LOOK)
        yield
    finally:
        agent.terminate()
        agent.wait()


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
