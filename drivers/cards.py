"""What drivers and simulators say of themselves, as docs/providers.md: `python -m drivers.cards`.

What is written here is what the contract suite holds every driver to, and what every simulated
site says about where its behaviour comes from.
"""

import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

from controlplane.domain.site import Capability
from drivers.registry import DRIVERS

HERE = Path(__file__).parent
PLACE = HERE.parent / "docs" / "providers.md"
_DONE = "done"
_MEANING = {
    "observed": "seen on the real thing",
    "schema": "stated by the provider's published API reference or schema",
    "docs": "stated by the provider's documentation",
    "assumed": "nobody looked yet",
    "not modelled": "left out of the simulator",
}


class Fact(Protocol):
    """One line of a simulator's table."""

    @property
    def id(self) -> str: ...
    @property
    def provenance(self) -> str: ...
    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a provider's folder says of itself. `facets` and `rules`: reasons, empty where done."""

    kind: str
    name: str
    summary: str
    facets: dict[str, str]
    rules: dict[str, str]
    facts: dict[str, str]


def card(kind: str) -> Card:
    """The card of `drivers/<kind>/card.toml`."""
    data = tomllib.loads((HERE / kind / "card.toml").read_text(encoding="utf-8"))
    return Card(
        kind=kind,
        name=data["name"],
        summary=data["summary"],
        facets={name: _reason(line) for name, line in data["facets"].items()},
        rules={name: _reason(line) for name, line in data.get("rules", {}).items()},
        facts={name: str(text) for name, text in data.get("facts", {}).items()},
    )


def modelled(kind: str) -> tuple[Fact, ...]:
    """What the provider's simulator models; empty where there is no simulator."""
    if find_spec(f"drivers.simulators.{kind}") is None:
        return ()
    table = import_module(f"drivers.simulators.{kind}.facts").FACTS
    return cast("tuple[Fact, ...]", table)


def text() -> str:
    """The whole document."""
    cards = [card(kind.value) for kind in DRIVERS]
    return "\n".join([*_opening(), *_matrix(cards), *(line for c in cards for line in _part(c))])


def _reason(line: Any) -> str:  # noqa: ANN401  # what TOML holds
    return "" if line == _DONE else str(line["exempt"])


def _opening() -> list[str]:
    return [
        "# Providers",
        "",
        (
            "Made by `python -m drivers.cards` from `drivers/*/card.toml` and"
            " `drivers/simulators/*/facts.py`; `make docs` writes it anew, and"
            " `tests/architecture/test_docs.py` fails while it is out of date."
        ),
        "",
    ]


def _matrix(cards: list[Card]) -> list[str]:
    names = " | ".join(c.name for c in cards)
    return [
        "## What each driver can",
        "",
        f"| facet | {names} |",
        "|---" * (len(cards) + 1) + "|",
        *(
            f"| {facet} | " + " | ".join("no" if c.facets[facet] else "yes" for c in cards) + " |"
            for facet in Capability
        ),
        "",
    ]


def _part(provider: Card) -> Iterator[str]:
    yield from (f"## {provider.name}", "", provider.summary, "")
    missing = {name: why for name, why in (provider.facets | provider.rules).items() if why}
    if missing:
        yield from ("What it does not do, and why:", "")
        yield from (f"- {name}: {why}." for name, why in missing.items())
        yield ""
    if provider.facts:
        yield from ("| fact | |", "|---|---|")
        yield from (f"| {name} | {_cell(said)} |" for name, said in provider.facts.items())
        yield ""
    facts = modelled(provider.kind)
    if facts:
        yield from _provenance(provider, facts)


def _provenance(provider: Card, facts: tuple[Fact, ...]) -> Iterator[str]:
    counted = Counter(str(fact.provenance) for fact in facts)
    yield from (f"### What the simulated {provider.name} is modelled on", "")
    yield from (f"- {how}: {counted[how]} ({why})" for how, why in _MEANING.items() if counted[how])
    yield from ("", "| fact | provenance | |", "|---|---|---|")
    yield from (f"| {f.id} | {f.provenance} | {_cell(f.text)} |" for f in facts)
    yield ""


def _cell(said: str) -> str:
    return said.replace("|", "\\|")


def main() -> None:
    PLACE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"wrote {PLACE.name}\n")


if __name__ == "__main__":
    main()
