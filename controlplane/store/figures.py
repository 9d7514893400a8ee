"""Counted over all rows for those who watch the whole: operations, steps, bytes, what waits."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Float, cast, func, select
from sqlalchemy.orm import Session

from controlplane.store.events import Events
from controlplane.store.operations import OperationRow, ProgressRow, StepRow
from controlplane.store.outbox import OutboxRow
from controlplane.store.settings import Lag, Settings
from controlplane.store.site_errors import site_errors
from controlplane.store.vault_rows import DamageRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Keys are (kind, state), (kind, code), (kind, what), (site, code) or a kind.

    Seconds and bytes are sums.
    """

    operations: dict[tuple[str, str], int]
    problems: dict[tuple[str, str], int]
    bytes: dict[tuple[str, str], float]
    steps: dict[tuple[str, str], int]
    retries: dict[str, int]
    seconds: dict[tuple[str, str], float]
    site_errors: dict[tuple[str, str], int]
    untold: int
    untold_since: datetime | None
    progressed_at: datetime | None
    events: int
    damaged: int
    replica: Lag | None = None


BYTES = ("bytesRead", "bytesSent", "bytesWritten")
SECONDS = ("providerSeconds", "copySeconds", "overheadSeconds")


def figures(session: Session, events: Events) -> Figures:
    """What the rows say now; from rows, so that no restart of a process makes it begin anew."""
    kind, step_kind = OperationRow.kind, OperationRow.kind
    of_steps = select(step_kind).join(StepRow, StepRow.operation == OperationRow.id)
    code = OperationRow.problem["code"].as_string()
    untold, since = session.execute(
        select(func.count(), func.min(OutboxRow.at)).select_from(OutboxRow)
    ).one()
    progressed = session.scalar(
        select(func.min(ProgressRow.at)).join(
            OperationRow, OperationRow.id == ProgressRow.operation
        ).where(OperationRow.state == "running")
    )  # fmt: skip
    return Figures(
        operations={
            (k, state): count
            for k, state, count in session.execute(
                select(kind, OperationRow.state, func.count()).group_by(kind, OperationRow.state)
            )
        },
        problems={
            (k, c): count
            for k, c, count in session.execute(
                select(kind, code, func.count()).where(code.is_not(None)).group_by(kind, code)
            )
        },
        bytes=_summed(session, BYTES),
        steps={
            (k, state): count
            for k, state, count in session.execute(
                of_steps.add_columns(StepRow.state, func.count()).group_by(step_kind, StepRow.state)
            )
        },
        retries={
            k: int(count)
            for k, count in session.execute(
                of_steps.add_columns(func.sum(StepRow.attempts - 1)).group_by(step_kind)
            )
        },
        seconds=_summed(session, SECONDS),
        site_errors=site_errors(session),
        untold=untold,
        untold_since=since,
        progressed_at=progressed,
        events=events.last(),
        damaged=session.scalar(select(func.count()).select_from(DamageRow)) or 0,
        replica=Settings(session).lag,
    )


def _summed(session: Session, names: tuple[str, ...]) -> dict[tuple[str, str], float]:
    """Sums over the results of operations that have one."""
    sums: list[ColumnElement[float]] = [
        func.coalesce(func.sum(cast(OperationRow.result[name].as_string(), Float)), 0.0)
        for name in names
    ]
    rows = session.execute(
        select(OperationRow.kind, *sums).where(OperationRow.ended).group_by(OperationRow.kind)
    )
    return {(row[0], name): float(row[i]) for row in rows for i, name in enumerate(names, start=1)}
