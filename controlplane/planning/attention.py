"""What a person must look at before an operation that needs attention is tried again."""

from collections.abc import Iterable

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.operation import SWITCHED, Operation, OperationKind
from controlplane.domain.placement import Placement


def look_at(
    operation: Operation, home: Placement | None, artefacts: Iterable[Artefact]
) -> tuple[str, ...]:
    """One line for each thing at a site, by the name it has there, and last what to do then.

    `artefacts` are those of the operation's instance.
    """
    kept = [a for a in artefacts if a.state is not ArtefactState.RELEASED]
    ordered = sorted(kept, key=lambda a: (a.kind is not ArtefactKind.INSTANCE, a.site, str(a.id)))
    lines = [line for a in ordered if (line := _line(operation, home, a))]
    return (*lines, _then(operation))


def _line(operation: Operation, home: Placement | None, artefact: Artefact) -> str:
    name = artefact.ref or artefact.anchor
    what = f"{artefact.site}: {artefact.kind} {name or 'that may have been made there'}"
    ours = artefact.operation == operation.id
    if ours and operation.kind is OperationKind.ADOPT:
        return f"{what} was there before and goes on as it is: only the tag on it is to go"
    if artefact.kind is not ArtefactKind.INSTANCE:
        settled = artefact.state is ArtefactState.ATTACHED
        return f"{what} was made by it and is kept" if ours and not settled else ""
    moving = operation.kind is OperationKind.MOVE
    if home is not None and artefact.id == home.copy:
        if not moving or operation.phase == SWITCHED:
            return f"{what} is the home: see whether it runs as it should"
        return f"{what} is the home: it must not run while another copy may"
    if ours:
        return f"{what} is the copy this move made: see that it is off"
    return f"{what} is an older copy: see that it is off"


def _then(operation: Operation) -> str:
    mends = (
        f"fedctl moves retry {operation.subject_name}"
        if operation.kind is OperationKind.MOVE
        else f"fedctl operation cancel {operation.name}"
    )
    return f"then {mends}: what was left undone is tried again"
