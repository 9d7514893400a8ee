"""Names that a shell offers while one types: soon, and nothing at all where nobody answers."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

import typer

from api.cli.client import Client, opened
from api.cli.contexts import Contexts, Globals
from controlplane.domain.kinds import KindFacts, Scope, facts
from controlplane.domain.resource import Kind

T = TypeVar("T")
Completer = Callable[[typer.Context, str], list[str]]
_ONE, _ALL = 0.7, 1.5  # seconds for one answer, and after which no more are asked for
_MOST = 200


def offering(*kinds: Kind) -> Completer:
    """Completes names of these kinds, and `workspace/name` where a slash or only that fits."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        found = list(_quietly(lambda: _found(ctx, kinds)))
        plain = {name for _, name in found if name.startswith(incomplete)}
        whole = {f"{place}/{name}" for place, name in found if place}
        return sorted(plain or {each for each in whole if each.startswith(incomplete)})

    return complete


def contexts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completes names of saved contexts."""
    names = list(_quietly(lambda: iter(Contexts.default(_said(ctx).config).all)))
    return sorted(name for name in names if name.startswith(incomplete))


def _quietly(source: Callable[[], Iterator[T]]) -> Iterator[T]:
    """What comes in time; a line that is being typed is no place for an error."""
    until = time.monotonic() + _ALL
    try:
        for each in source():
            yield each
            if time.monotonic() > until:
                return
    except Exception:  # noqa: BLE001  # whatever it is, the shell is to show nothing of it
        return


def _found(ctx: typer.Context, kinds: tuple[Kind, ...]) -> Iterator[tuple[str, str]]:
    """Workspace and name of each thing; without a workspace where it lies in none."""
    said = _said(ctx)
    workspace = ctx.params.get("workspace")
    context = Contexts.default(said.config).chosen(said, workspace)
    with closing(opened(context, timeout=_ONE)) as client:
        for kind in kinds:
            entry = facts(kind, Scope.WORKSPACE) if kind is Kind.OPERATION else facts(kind)
            if entry.scope is not Scope.WORKSPACE:
                yield from (("", name) for name in _names(client, entry, ""))
                continue
            for place in [workspace] if workspace else _names(client, facts(Kind.WORKSPACE), ""):
                yield from ((place, name) for name in _names(client, entry, place))


def _names(client: Client, entry: KindFacts, workspace: str) -> list[str]:
    return [each["metadata"]["name"] for each in client.list(entry, workspace, limit=_MOST)]


def _said(ctx: typer.Context) -> Globals:
    """What stands before the command: its own function does not run while one completes."""
    return Globals.of(ctx.find_root().params)
