"""What all rows have in common: names of constraints, column types, times in UTC."""

import json
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Text,
    Uuid,
    event,
)
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute
from sqlalchemy.types import TypeDecorator

from controlplane.domain.errors import Invalid
from controlplane.domain.resource import Json


def in_utc(at: datetime) -> datetime:
    """The same moment in UTC; Invalid when the time has no zone."""
    if at.tzinfo is None:
        raise Invalid(f"the time {at} has no zone: give an aware one")
    return at.astimezone(UTC)


class UtcTime(TypeDecorator[datetime]):
    """An aware moment, kept and given back in UTC on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        at = in_utc(value)
        return at.replace(tzinfo=None) if dialect.name == "sqlite" else at

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # SQLAlchemy calls it
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def plain(value: Json) -> dict[str, object]:
    """`value` as it will be read again: lists for tuples, text for enums; Invalid if it cannot."""
    try:
        kept: dict[str, object] = json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as e:
        raise Invalid(f"a value cannot be kept as JSON: {e}") from e
    return kept


# Byte order everywhere: pages follow each other alike on both databases, whatever the locale.
TEXT = Text().with_variant(Text(collation="C"), "postgresql")
COUNTED = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts INTEGER keys only


class Base(DeclarativeBase):
    """The parent of every row class; rows never leave the file that declares them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy reads a plain class attribute
        datetime: UtcTime(),
        UUID: Uuid(),
        str: TEXT,
        int: BigInteger(),
        float: Double(),
        bytes: LargeBinary(),
        dict[str, object]: JSON(none_as_null=True),
        dict[str, str]: JSON(none_as_null=True),
        list[dict[str, str]]: JSON(),
        list[dict[str, object]]: JSON(),
    }


@event.listens_for(Base, "attribute_instrument")
def _keep_times_in_utc(_: type[Base], __: str, attribute: InstrumentedAttribute[object]) -> None:
    """A row's time is in UTC from the moment it is set, as it will be read again."""
    columns = getattr(attribute.property, "columns", None)
    if columns and isinstance(columns[0].type, UtcTime):
        event.listen(attribute, "set", _set_in_utc, retval=True)


def _set_in_utc(_: Base, value: datetime | None, *__: object) -> datetime | None:
    return None if value is None else in_utc(value)
