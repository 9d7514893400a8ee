"""What every resource on the wire has in common: envelope, metadata, references, lists."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

S = TypeVar("S", bound=BaseModel)
T = TypeVar("T", bound=BaseModel)

MAP_MAX = 128
Key = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$")]
Label = Annotated[str, Field(max_length=63)]
Annotation = Annotated[str, Field(max_length=1024)]
Zone = Annotated[str, Field(min_length=1, max_length=32)]
Name64 = Annotated[str, Field(max_length=64)]


class Wire(BaseModel):
    """A request's part: unknown fields are refused, and `null` is the same as absent."""

    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=to_camel, validate_by_name=True
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:  # noqa: ANN401  # whatever JSON was sent
        if isinstance(data, Mapping):
            return {key: value for key, value in data.items() if value is not None}
        return data

    def json_map(self) -> dict[str, object]:
        """What the client wrote, field for field, without what it left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


class Shown(BaseModel):
    """An answer's part; it grows without breaking clients."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel, validate_by_name=True)


class Reference(Wire):
    """Another resource; what is missing is taken from the resource that refers to it."""

    resource: Annotated[str, Field(min_length=1, max_length=256)]
    provider: Name64 | None = None
    region: Name64 | None = None
    tenant: Name64 | None = None
    workspace: Name64 | None = None


class ResourceIn(Wire, Generic[S]):
    """The body of a PUT. The server owns `metadata` and `status`: they are not read."""

    labels: Annotated[dict[Key, Label], Field(max_length=MAP_MAX)] = Field(default_factory=dict)
    annotations: Annotated[dict[Key, Annotation], Field(max_length=MAP_MAX)] = Field(
        default_factory=dict
    )
    extensions: Annotated[dict[Key, str], Field(max_length=MAP_MAX)] = Field(default_factory=dict)
    spec: S
    metadata: Annotated[Any, Field(exclude=True)] = None
    status: Annotated[Any, Field(exclude=True)] = None


class Metadata(Shown):
    """Who and where a resource is; which fields are there depends on the kind's scope."""

    name: str
    provider: str
    resource: str
    verb: str
    api_version: str
    kind: str
    ref: str
    created_at: datetime | None = None
    last_modified_at: datetime | None = None
    deleted_at: datetime | None = None
    resource_version: int | None = None
    tenant: str | None = None
    workspace: str | None = None
    region: str | None = None


class ConditionOut(Shown):
    state: str
    last_transition_at: datetime
    type: str | None = None
    reason: str | None = None
    message: str | None = None


class Status(Shown):
    """State and history (newest first), with what the kind adds."""

    state: str
    conditions: list[ConditionOut]


class ResourceOut(Shown, Generic[S, T]):
    labels: dict[str, str]
    annotations: dict[str, str]
    extensions: dict[str, str]
    metadata: Metadata
    spec: S
    status: T | None = None


class ListMetadata(Shown):
    """`skip_token` is there while more follows."""

    provider: str
    resource: str
    verb: str
    skip_token: str | None = None
