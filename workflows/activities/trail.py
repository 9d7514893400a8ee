"""What operations leave in the audit log."""

from datetime import datetime

from controlplane.domain.audit import AuditEntry
from controlplane.domain.operation import Operation
from controlplane.store.tx import Tx


def audit(tx: Tx, op: Operation, outcome: str, now: datetime, **detail: str) -> None:
    tx.audit.append(
        AuditEntry(
            sequence=0,
            at=now,
            actor=op.actor,
            tenant=op.tenant or "",
            action=f"operation.{op.kind}",
            subject=op.subject_name,
            outcome=outcome,
            operation=str(op.id),
            request=op.request,
            detail=detail,
        ),
        now,
    )
