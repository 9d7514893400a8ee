"""Resources of every kind in one table."""
# ruff: noqa: A002  # `id` and `type` are the nouns' own words

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeAlias, TypedDict
from uuid import UUID

from sqlalchemy import Index, false, func, select, text, tuple_
from sqlalchemy.orm import Mapped, Session, mapped_column

from controlplane.domain.errors import Conflict, Invalid, NotFound
from controlplane.domain.ids import ResourceId, TenantName, WorkspaceName
from controlplane.domain.lifecycle import RESOURCE, advance
from controlplane.domain.resource import (
    CONDITIONS_KEPT,
    Condition,
    Json,
    Kind,
    Resource,
    ResourceKey,
    State,
)
from controlplane.domain.selector import Selector
from controlplane.store.events import Events
from controlplane.store.labels import conditions, replace_labels
from controlplane.store.rows import Base, plain

PRECONDITION = "precondition"
Page: TypeAlias = list[Resource]
_APART = timedelta(milliseconds=1)  # two modifications of one resource are told apart by their time


class Deleted(StrEnum):
    """Which of the living and the removed a listing shows."""

    LIVE = "live"
    ALSO = "also"
    ONLY = "only"


class _ResourceRow(Base):
    """`tenant` and `workspace` are empty, not null, where there is none: names stay unique.

    `removed` frees the name; `deleted_at` is the moment at which deletion was asked for.
    """

    __tablename__ = "resources"
    __table_args__ = (
        Index(
            "uq_resources_name",
            "kind",
            "tenant",
            "workspace",
            "name",
            unique=True,
            sqlite_where=text("removed = 0"),
            postgresql_where=text("NOT removed"),
        ),
        Index("ix_resources_page", "kind", "tenant", "workspace", "name", "id"),
        Index("ix_resources_kind", "kind", "name", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]
    tenant: Mapped[str]
    workspace: Mapped[str]
    name: Mapped[str]
    labels: Mapped[dict[str, str]]
    annotations: Mapped[dict[str, str]]
    extensions: Mapped[dict[str, str]]
    spec: Mapped[dict[str, object]]
    status: Mapped[dict[str, object]]
    state: Mapped[str]
    conditions: Mapped[list[dict[str, str]]]
    version: Mapped[int]
    status_version: Mapped[int]
    created_at: Mapped[datetime]
    modified_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    removed: Mapped[bool]


class _Wish(TypedDict):
    """What a user may change of a resource."""

    labels: dict[str, str]
    annotations: dict[str, str]
    extensions: dict[str, str]
    spec: dict[str, object]


def cursor(resource: Resource) -> str:
    """What `after` takes to go on behind this resource, also where names repeat."""
    return f"{resource.key.name}/{resource.id}"


class Resources:
    """Reading and changing resources; each change is an event under the resource's kind."""

    def __init__(self, session: Session, events: Events) -> None:
        self._session = session
        self._events = events

    def find(self, key: ResourceKey) -> Resource | None:
        row = self._row(key)
        return None if row is None else _to_noun(row)

    def get(self, key: ResourceKey) -> Resource:
        found = self.find(key)
        if found is None:
            raise NotFound(f"there is no {key.kind} {str(key)!r}: check the name")
        return found

    def find_id(self, id: ResourceId, *, deleted: bool = False) -> Resource | None:
        row = self._session.get(_ResourceRow, id)
        return None if row is None or (row.removed and not deleted) else _to_noun(row)

    def by_id(self, id: ResourceId, *, deleted: bool = False) -> Resource:
        found = self.find_id(id, deleted=deleted)
        if found is None:
            raise NotFound(f"there is no resource with the id {id}")
        return found

    def put(
        self,
        key: ResourceKey,
        *,
        id: ResourceId,
        spec: Json,
        now: datetime,
        status: Json | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        extensions: Mapping[str, str] | None = None,
        expected_version: int | None = None,
    ) -> tuple[Resource, bool]:
        """The resource as it is after the wish, and whether it was made.

        `id` and `status` are those of a new one. Conflict with reason `precondition` when
        `expected_version` is not the version found (0: there is none yet).
        """
        row = self._row(key)
        found = 0 if row is None else row.version
        if expected_version is not None and expected_version != found:
            raise Conflict(
                f"{key.kind} {str(key)!r} is at version {found}, not {expected_version}:"
                " read it again, then decide",
                reason=PRECONDITION,
            )
        wish = _Wish(
            labels=dict(labels or {}),
            annotations=dict(annotations or {}),
            extensions=dict(extensions or {}),
            spec=plain(spec),
        )
        if any("\0" in part for item in (labels or {}).items() for part in item):
            raise Invalid(f"a label of {key.kind} {str(key)!r} holds a zero character: remove it")
        if row is None:
            row = self._make(key, id, wish, plain(status or {}), now)
            return _to_noun(row), True
        if row.state == State.DELETING:
            raise Conflict(f"{key.kind} {str(key)!r} is being deleted: wait until it is gone")
        if any(getattr(row, name) != value for name, value in wish.items()):
            if row.labels != wish["labels"]:
                replace_labels(self._session, row.id, wish["labels"])
            for name, value in wish.items():
                setattr(row, name, value)
            self._modified(row, now)
            self._changed(row)
        return _to_noun(row), False

    def set_state(
        self,
        id: ResourceId,
        state: State,
        *,
        now: datetime,
        type: str = "",
        reason: str = "",
        message: str = "",
    ) -> Resource:
        """Enters `state` (Conflict where the lifecycle forbids it) and notes it as a condition.

        The newest condition repeated word by word is refreshed. Deletion leaves its mark
        (`deleted_at`) until the resource returns to a living state.
        """
        row = self._living(id)
        row.state = advance(RESOURCE, State(row.state), state)
        _note(row, Condition(state=state, at=now, type=type, reason=reason, message=message))
        if state is State.DELETING:
            row.deleted_at = row.deleted_at or now
        elif state is not State.ERROR:
            row.deleted_at = None
        row.status_version += 1
        return self._changed(row)

    def set_status(self, id: ResourceId, status: Json, *, now: datetime) -> None:  # noqa: ARG002  # every change of a resource is told its time
        """Replaces the status; the same again changes nothing."""
        self._put_status(self._living(id), plain(status))

    def patch_status(self, id: ResourceId, changes: Json, *, now: datetime) -> None:  # noqa: ARG002  # every change of a resource is told its time
        """These top-level fields of the status are replaced; the others stay."""
        row = self._living(id)
        self._put_status(row, {**row.status, **plain(changes)})

    def set_spec(self, id: ResourceId, spec: Json, *, now: datetime) -> None:
        """The server's own change of a spec, such as the zone after a switch."""
        row = self._living(id)
        if row.spec != (wish := plain(spec)):
            row.spec = wish
            self._modified(row, now)
            self._changed(row)

    def mark_deleting(self, id: ResourceId, now: datetime) -> Resource:
        """Deletion was asked for; asked again it stays as it is."""
        row = self._living(id)
        if row.state == State.DELETING:
            return _to_noun(row)
        self._modified(row, now)
        return self.set_state(id, State.DELETING, now=now)

    def remove(self, id: ResourceId, now: datetime) -> None:
        """Gone for its users, and its name is free; listings of the deleted still show it."""
        row = self._session.get(_ResourceRow, id)
        if row is None:
            raise NotFound(f"there is no resource with the id {id}")
        if not row.removed:
            row.removed = True
            row.deleted_at = row.deleted_at or now
            self._changed(row)

    def list(
        self,
        kind: Kind,
        *,
        tenant: TenantName | None = None,
        workspace: WorkspaceName | None = None,
        labels: Selector = (),
        limit: int = 1000,
        after: str = "",
        deleted: Deleted = Deleted.LIVE,
    ) -> Page:
        """A page in the order of names. A scope that is None is not asked about.

        `after` is the last name of the page before, or its `cursor` where names may repeat (across
        workspaces, among the removed).
        """
        query = select(_ResourceRow).where(_ResourceRow.kind == kind)
        if tenant is not None:
            query = query.where(_ResourceRow.tenant == tenant)
        if workspace is not None:
            query = query.where(_ResourceRow.workspace == workspace)
        if deleted is not Deleted.ALSO:
            query = query.where(_ResourceRow.removed.is_(deleted is Deleted.ONLY))
        name, _, last = after.partition("/")
        if last:
            place = tuple_(_ResourceRow.name, _ResourceRow.id)
            query = query.where(place > tuple_(name, _id_in(after, last)))
        elif name:
            query = query.where(_ResourceRow.name > name)
        dialect = self._session.get_bind().dialect.name
        query = query.where(*conditions(_ResourceRow.id, labels, dialect=dialect))
        # A whole scope is read in the order of its index, an open one in that of its kind's.
        order = [_ResourceRow.name, _ResourceRow.id]
        return [_to_noun(row) for row in self._session.scalars(query.order_by(*order).limit(limit))]

    def count(
        self,
        kind: Kind,
        tenant: TenantName | None = None,
        workspace: WorkspaceName | None = None,
    ) -> int:
        """How many live; a scope that is None is not asked about."""
        query = select(func.count()).where(
            _ResourceRow.kind == kind, _ResourceRow.removed == false()
        )
        if tenant is not None:
            query = query.where(_ResourceRow.tenant == tenant)
        if workspace is not None:
            query = query.where(_ResourceRow.workspace == workspace)
        return self._session.scalars(query).one()

    def _row(self, key: ResourceKey) -> _ResourceRow | None:
        return self._session.scalars(
            select(_ResourceRow).where(
                _ResourceRow.kind == key.kind,
                _ResourceRow.tenant == (key.tenant or ""),
                _ResourceRow.workspace == (key.workspace or ""),
                _ResourceRow.name == key.name,
                _ResourceRow.removed == false(),
            )
        ).one_or_none()

    def _living(self, id: ResourceId) -> _ResourceRow:
        row = self._session.get(_ResourceRow, id)
        if row is None or row.removed:
            raise NotFound(f"there is no resource with the id {id}")
        return row

    def _make(
        self,
        key: ResourceKey,
        id: ResourceId,
        wish: "_Wish",
        status: dict[str, object],
        now: datetime,
    ) -> _ResourceRow:
        row = _ResourceRow(
            id=id,
            kind=key.kind.value,
            tenant=key.tenant or "",
            workspace=key.workspace or "",
            name=key.name,
            status=status,
            state=State.PENDING.value,
            conditions=[],
            version=1,
            status_version=1,
            created_at=now,
            modified_at=now,
            removed=False,
            **wish,
        )
        _note(row, Condition(state=State.PENDING, at=now))
        self._session.add(row)
        self._session.flush()
        replace_labels(self._session, id, wish["labels"])
        self._changed(row)
        return row

    def _put_status(self, row: _ResourceRow, status: dict[str, object]) -> None:
        if row.status != status:
            row.status = status
            row.status_version += 1
            self._changed(row)

    def _modified(self, row: _ResourceRow, now: datetime) -> None:
        row.version += 1
        row.modified_at = max(now, row.modified_at + _APART)

    def _changed(self, row: _ResourceRow) -> Resource:
        self._events.append(row.kind, row.id)
        return _to_noun(row)


def _id_in(after: str, last: str) -> UUID:
    try:
        return UUID(last)
    except ValueError as e:
        raise Invalid(f"{after[:160]!r} is not a place in a listing: begin again") from e


def _note(row: _ResourceRow, condition: Condition) -> None:
    """Puts the condition in front; the newest said again is refreshed; time never goes back."""
    history = [dict(entry) for entry in row.conditions]
    entry = {
        "state": condition.state.value,
        "type": condition.type,
        "reason": condition.reason,
        "message": condition.message,
    }
    at = condition.at.astimezone(UTC)
    if history:
        at = max(at, datetime.fromisoformat(history[0]["at"]))
        if all(history[0][name] == value for name, value in entry.items()):
            del history[0]
    row.conditions = [{**entry, "at": at.isoformat()}, *history][:CONDITIONS_KEPT]


def _to_noun(row: _ResourceRow) -> Resource:
    return Resource(
        key=ResourceKey(
            kind=Kind(row.kind),
            name=row.name,
            tenant=TenantName(row.tenant) if row.tenant else None,
            workspace=WorkspaceName(row.workspace) if row.workspace else None,
        ),
        id=ResourceId(row.id),
        labels=row.labels,
        annotations=row.annotations,
        extensions=row.extensions,
        spec=row.spec,
        status=row.status,
        state=State(row.state),
        conditions=tuple(
            Condition(
                state=State(entry["state"]),
                at=datetime.fromisoformat(entry["at"]),
                type=entry["type"],
                reason=entry["reason"],
                message=entry["message"],
            )
            for entry in row.conditions
        ),
        version=row.version,
        status_version=row.status_version,
        created_at=row.created_at,
        modified_at=row.modified_at,
        deleted_at=row.deleted_at,
    )
