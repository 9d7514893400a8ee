"""What a look at a provider can tell: it is there, it is not, or we cannot know."""

from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Seen(Generic[T_co]):
    """It exists, and this is what it looks like."""

    it: T_co


@dataclass(frozen=True, slots=True)
class Absent:
    """The provider answered completely and it is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """The answer was partial, stale or refused. Never to be taken for absence."""

    why: str


Answer: TypeAlias = Seen[T] | Absent | Unknown
