"""From what a person types to the one thing that is meant."""

from dataclasses import dataclass

from api.cli.client import Doc
from api.cli.failure import Stopped
from api.cli.session import Session
from api.schemas.errors import EXIT
from controlplane.domain.errors import Invalid, NotFound
from controlplane.domain.kinds import KindFacts, Scope, facts
from controlplane.domain.resource import Kind

_SHOWN = 10
_COMMANDS = {Kind.MOVE: "moves", Kind.RECOVERY_POINT: "recovery-points"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A resource and where it is."""

    document: Doc
    name: str
    workspace: str = ""

    def __str__(self) -> str:
        return f"{self.workspace}/{self.name}" if self.workspace else self.name


def find(session: Session, kind: Kind, text: str) -> Found:
    """The one thing of `kind` that `text` names: a name, a unique prefix, or workspace/name."""
    entry = facts(kind, Scope.WORKSPACE) if kind is Kind.OPERATION else facts(kind)
    if entry.scope is not Scope.WORKSPACE:
        return _one(kind, text, _matching(session, entry, text, ""))
    if "/" in text:
        workspace, _, name = text.partition("/")
        where = _one(Kind.WORKSPACE, workspace, _workspaces(session, workspace)).name
        return _one(kind, text, _matching(session, entry, name, where))
    places = [session.named_workspace] if session.named_workspace else workspace_names(session)
    every = [each for place in places for each in _matching(session, entry, text, place)]
    exact = [each for each in every if each.name == text]
    here = [each for each in exact if each.workspace == session.context.workspace]
    return _one(kind, text, here or exact or every)


def workspace_names(session: Session) -> list[str]:
    return [doc["metadata"]["name"] for doc in session.client.list(facts(Kind.WORKSPACE))]


def chosen_workspace(session: Session) -> str:
    """The workspace that was named, the context's, or the only one that there is."""
    named = session.context.workspace
    if named:
        return named
    names = workspace_names(session)
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFound("there is no workspace yet: create one (fedctl workspace create shop)")
    raise Invalid(f"which workspace? say --workspace; there are: {', '.join(names)}")


def split(session: Session, text: str) -> tuple[str, str]:
    """Workspace and name of something that is to be made."""
    workspace, _, name = text.rpartition("/")
    return (workspace or chosen_workspace(session)), name


def _workspaces(session: Session, text: str) -> list[Found]:
    return _matching(session, facts(Kind.WORKSPACE), text, "")


def _matching(session: Session, entry: KindFacts, text: str, workspace: str) -> list[Found]:
    """Those whose name is `text`, or else begins with it."""
    found = [
        Found(document=doc, name=doc["metadata"]["name"], workspace=workspace)
        for doc in session.client.list(entry, workspace)
    ]
    exact = [each for each in found if each.name == text]
    return exact or [each for each in found if each.name.startswith(text)]


def _one(kind: Kind, text: str, found: list[Found]) -> Found:
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFound(f"there is no {kind} {text!r}: list them (fedctl {_listing(kind)})")
    candidates = tuple(f"  {each}" for each in found[:_SHOWN])
    more = (f"  and {len(found) - _SHOWN} more",) if len(found) > _SHOWN else ()
    raise Stopped(
        f"{text!r} may be any of {len(found)} of kind {kind}: write more of the name",
        exit_code=EXIT[Invalid],
        notes=(*candidates, *more),
    )


def _listing(kind: Kind) -> str:
    return "vault checks" if kind is Kind.VAULT_CHECK else f"{_COMMANDS.get(kind, kind.value)} list"
