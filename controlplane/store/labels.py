"""Labels as a table of their own, and selectors as conditions on it."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy import ColumnElement, ForeignKey, Index, delete, exists
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session, mapped_column

from controlplane.domain.selector import WILDCARD, Op, Selector, Term, number
from controlplane.store.rows import Base


class LabelRow(Base):
    """One label of one resource; `number` is its value where that is a number."""

    __tablename__ = "resource_labels"
    __table_args__ = (
        Index(None, "key", "value", "resource"),
        Index(None, "key", "number", "resource"),
    )

    resource: Mapped[UUID] = mapped_column(
        ForeignKey("resources.id", ondelete="CASCADE"), primary_key=True
    )
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    number: Mapped[float | None]


def replace_labels(session: Session, resource: UUID, labels: Mapping[str, str]) -> None:
    """These are the resource's labels from now on."""
    session.execute(delete(LabelRow).where(LabelRow.resource == resource))
    session.add_all(
        LabelRow(resource=resource, key=key, value=value, number=number(value))
        for key, value in labels.items()
    )


def conditions(
    resource: InstrumentedAttribute[UUID], selector: Selector, *, dialect: str
) -> list[ColumnElement[bool]]:
    """What must hold for a resource that the selector chooses."""
    return [_condition(resource, term, dialect) for term in selector]


def _condition(
    resource: InstrumentedAttribute[UUID], term: Term, dialect: str
) -> ColumnElement[bool]:
    if term.op is Op.NE:
        same = exists().where(
            LabelRow.resource == resource, LabelRow.key == term.key, LabelRow.value == term.value
        )
        return ~same
    key = _matches(LabelRow.key, term.key, dialect)
    return exists().where(LabelRow.resource == resource, key, _compares(term, dialect))


def _compares(term: Term, dialect: str) -> ColumnElement[bool]:
    bound = number(term.value)
    match term.op:
        case Op.EQ | Op.NE:
            return _matches(LabelRow.value, term.value, dialect)
        case Op.GT:
            return LabelRow.number > bound
        case Op.LT:
            return LabelRow.number < bound
        case Op.GE:
            return LabelRow.number >= bound
        case Op.LE:
            return LabelRow.number <= bound


def _matches(column: InstrumentedAttribute[str], pattern: str, dialect: str) -> ColumnElement[bool]:
    if WILDCARD not in pattern:
        return column == pattern
    if dialect == "sqlite":  # its LIKE ignores case
        escaped = pattern.replace("[", "[[]").replace("?", "[?]")
        return column.op("GLOB", is_comparison=True)(escaped)
    escaped = pattern.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    return column.like(escaped.replace(WILDCARD, "%"), escape="\\")
