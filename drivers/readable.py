"""Whatever an answer of a provider's holds: what cannot be read is told as Unavailable."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar

from controlplane.domain.errors import Unavailable
from drivers.contract import FACETS, Driver
from drivers.wire import UNREADABLE

D = TypeVar("D", bound=Driver)


def readable(cls: type[D]) -> type[D]:
    """A driver whose calls of the contract raise our errors alone.

    Mapping an answer takes its shape for granted. One of another shape ends here, with what went
    wrong as the cause: nobody knows what the call did, so it is asked again.
    """
    all_facets: list[type[Driver]] = [Driver, *FACETS.values()]
    facets = [facet for facet in all_facets if issubclass(cls, facet)]
    for name in {name for facet in facets for name in facet.__abstractmethods__} - {"close"}:
        setattr(cls, name, _guarded(name, getattr(cls, name)))
    return cls


def _guarded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def guarded(self: Any, *given: Any, **named: Any) -> Any:  # noqa: ANN401  # as the call
        try:
            answer = call(self, *given, **named)
            return iter(list(answer)) if isinstance(answer, Iterator) else answer
        except UNREADABLE as e:
            raise Unavailable(
                f"site {self.site}: {name}: an answer of the site has another shape than it should:"
                " ask again, and if it stays so compare its version with the driver's card",
                detail=f"{type(e).__name__}: {e}"[:200],
            ) from e

    return guarded
