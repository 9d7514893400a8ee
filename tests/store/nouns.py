"""Nouns for the tests of the store, each with names and ids of its own."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread
from time import monotonic
from uuid import UUID, uuid4

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.ids import (
    ArtefactId,
    InstanceId,
    OperationId,
    ResourceId,
    SiteName,
    TenantName,
    WorkspaceName,
)
from controlplane.domain.operation import Operation, OperationKind, OperationState
from controlplane.domain.placement import Placement
from controlplane.domain.resource import Kind, ResourceKey
from controlplane.store.engine import Store

T0 = datetime(2026, 11, 22, 9, 0, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def fresh(stem: str = "thing") -> str:
    return f"{stem}-{uuid4().hex[:12]}"


def key(name: str = "", *, tenant: str = "acme", workspace: str = "shop") -> ResourceKey:
    return ResourceKey(
        kind=Kind.INSTANCE,
        name=name or fresh("web"),
        tenant=TenantName(tenant),
        workspace=WorkspaceName(workspace),
    )


def resource_id() -> ResourceId:
    return ResourceId(uuid4())


def operation(
    *,
    name: str = "",
    tenant: str = "acme",
    workspace: str = "shop",
    subject: UUID | None = None,
    kind: OperationKind = OperationKind.MOVE,
    **fields,
) -> Operation:
    return Operation(
        id=OperationId(uuid4()),
        name=name or fresh("move"),
        kind=kind,
        state=OperationState.QUEUED,
        subject=ResourceId(subject or uuid4()),
        subject_name="shop/web-1",
        actor="ada",
        request="req-1",
        created_at=T0,
        tenant=TenantName(tenant),
        workspace=WorkspaceName(workspace),
        **fields,
    )


def added(store: Store, **fields) -> Operation:
    """An operation that is written down."""
    op = operation(**fields)
    with store.begin() as tx:
        tx.operations.add(op)
    return op


def home(store: Store, site: str = "par-os") -> InstanceId:
    """An instance that has a home."""
    instance = InstanceId(uuid4())
    with store.begin() as tx:
        tx.placements.create(Placement(instance=instance, site=SiteName(site), copy=None, epoch=0))
    return instance


def artefact(instance: InstanceId | None = None, epoch: int = 1, **fields) -> Artefact:
    wish = {"kind": ArtefactKind.VOLUME, "site": SiteName("par-os"), **fields}
    return Artefact(
        id=ArtefactId(uuid4()),
        instance=instance or InstanceId(uuid4()),
        operation=OperationId(uuid4()),
        epoch=epoch,
        state=ArtefactState.INTENDED,
        **wish,
    )


def in_time(seconds: float = 20) -> Callable[[], bool]:
    """Whether a loop may go on: raises once it has gone on for too long."""
    end = monotonic() + seconds

    def going() -> bool:
        assert monotonic() < end, "nothing came"
        return True

    return going


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What each call gave or raised, all having begun at the same moment in threads."""
    gate = Barrier(len(calls))
    results: list[object] = [None] * len(calls)

    def run(number: int, call: Callable[[], object]) -> None:
        gate.wait(timeout=10)
        try:
            results[number] = call()
        except Exception as e:  # noqa: BLE001  # it is the result
            results[number] = e

    threads = [Thread(target=run, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    return results
