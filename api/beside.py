"""What commands need that run beside a `fedctl dev`, or while it does not run."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from threading import Event
from time import monotonic

from api.embedded import State, agent_command, dies_with_parent, settings_of
from controlplane.domain.errors import NotFound, Unavailable
from controlplane.keys.client import AgentClient

_PATIENCE = 20.0
_LOOK = 0.05


@contextlib.contextmanager
def of_embedded(state: State) -> Iterator[None]:
    """The settings of a `fedctl dev`, and its key agent while it does not run itself."""
    check_begun(state)
    os.environ.update(settings_of(state))  # noqa: TID251  # for a composition root
    if _served(state):
        yield
        return
    with _agent(state):
        yield


def check_begun(state: State) -> None:
    """NotFound unless the folder is that of a `fedctl dev`."""
    if not state.passphrase.exists():
        raise NotFound(
            f"{state.folder} holds no passphrase: it is not the folder of a fedctl dev, or its root"
            " key and passphrase were not put there yet"
        )


def _served(state: State) -> bool:
    """Whether an agent answers; files of a system that was killed say nothing."""
    with contextlib.closing(AgentClient(state.agent_socket)) as agent:
        try:
            agent.status()
        except Unavailable:
            return False
        return True


@contextlib.contextmanager
def _agent(state: State) -> Iterator[None]:
    log = state.folder / "logs" / "agent.log"
    with log.open("ab") as out:
        agent = subprocess.Popen(
            agent_command(state), stdout=out, stderr=subprocess.STDOUT,
            preexec_fn=dies_with_parent,  # noqa: PLW1509  # nothing but a prctl between fork and exec
        )  # fmt: skip
    try:
        until = monotonic() + _PATIENCE
        while not _served(state):
            if agent.poll() is not None or monotonic() > until:
                raise Unavailable(f"the key agent did not start: see {log}")
            Event().wait(_LOOK)
        yield
    finally:
        agent.terminate()
        agent.wait()
