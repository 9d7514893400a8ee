"""Moves take turns: who asks waits, who may begin is told to the engine."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

from controlplane.domain.admission import Admission, Bounds
from controlplane.domain.errors import Exhausted
from controlplane.domain.ids import OperationId, ResourceId, SiteName, TenantName
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.resource import Kind, Resource
from controlplane.planning.admission import judged, next_turn, place, to_begin
from controlplane.store.tx import Tx

QUEUED = "queued"
"""The phase of a move from its asking to its beginning."""


def ask(
    tx: Tx, move: Resource, operation: Operation, sites: tuple[SiteName, SiteName], bounds: Bounds
) -> None:
    """The move waits for its turn; Exhausted when too many do already."""
    running, waiting = _parted(tx)
    stay = len(waiting) - len(to_begin(running, waiting, _with_sites(tx, bounds)))
    if stay >= bounds.waiting:
        raise Exhausted(
            f"{stay} moves wait for their turn already, and no more than {bounds.waiting}"
            " may (FEDCTL_MOVES_WAITING): nothing was changed; ask again when some have begun,"
            " or cancel some (fedctl moves list)"
        )
    tenant = operation.tenant or TenantName("")
    own = (each.turn for each in waiting if each.tenant == tenant)
    tx.admissions.add(
        Admission(
            operation=operation.id,
            move=move.id,
            tenant=tenant,
            sites=sites,
            turn=next_turn(tx.admissions.reached, own),
        )
    )


def admit(tx: Tx, bounds: Bounds, now: datetime) -> list[OperationId]:
    """Lets those begin whose turn it is; their deadlines count from now."""
    running, waiting = _parted(tx)
    chosen = to_begin(running, waiting, _with_sites(tx, bounds))
    if chosen:
        tx.admissions.admit(chosen, now)
    for each in chosen:
        seconds = cast("float", tx.operations.get(each).order["deadlineSeconds"])
        tx.operations.update(each, deadline=now + timedelta(seconds=seconds))
        tx.outbox.add(each, "start", now)
    return chosen


def give_up(tx: Tx, operation: Operation, now: datetime) -> bool:
    """Whether it waited for its turn: then its story begins at once, and only to end."""
    if not tx.admissions.waits(operation.id):
        return False
    tx.admissions.forget(operation.id)
    tx.outbox.add(operation.id, "start", now)
    return True


def places(tx: Tx, bounds: Bounds) -> Iterator[tuple[Admission, str]]:
    """Each move that waits, with where it stands and what is in its way, in words."""
    running, waiting = _parted(tx)
    looked = judged(running, waiting, _with_sites(tx, bounds))
    for number, (each, why) in enumerate(looked, start=1):
        yield each, place(number, len(waiting), why)


def of_operations(tx: Tx, shown: Iterable[Operation], bounds: Bounds) -> dict[OperationId, str]:
    """What those of `shown` wait for that wait for their turn."""
    if not any(
        each.kind is OperationKind.MOVE and each.state is OperationState.QUEUED for each in shown
    ):
        return {}
    return {each.operation: words for each, words in places(tx, bounds)}


def of_moves(tx: Tx, shown: Iterable[Resource], bounds: Bounds) -> dict[ResourceId, str]:
    """As `of_operations`, for the moves themselves."""
    if not any(each.status.get("phase") == QUEUED for each in shown):
        return {}
    return {each.move: words for each, words in places(tx, bounds)}


def _parted(tx: Tx) -> tuple[list[Admission], list[Admission]]:
    """What runs, and what waits in its order."""
    every = tx.admissions.list()
    return [a for a in every if a.admitted], [a for a in every if not a.admitted]


def _with_sites(tx: Tx, bounds: Bounds) -> Bounds:
    """With what the sites' own specs say."""
    own = {
        SiteName(site.key.name): cast("int", most)
        for site in tx.resources.list(Kind.SITE, limit=10_000)
        if (most := site.spec.get("maxMoves")) is not None
    }
    return replace(bounds, of_site=own)
