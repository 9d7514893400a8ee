"""What a provider says of itself in its card.toml: which facets and rules are done or exempt.

[facets]                       one line for each Capability
volumes = "done"
quota = { exempt = "why not" }
[rules]                        a test of the suite by name, without `test_`
some_rule = { exempt = "why not" }
[facts]                        text for people
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from controlplane.domain.site import Capability

DRIVERS = Path(__file__).parents[2] / "drivers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """`facets` maps each capability to the reason of its exemption; empty means done."""

    name: str
    summary: str
    facets: dict[Capability, str]
    rules: dict[str, str]
    facts: dict[str, object]


@cache
def card(provider: str) -> Card:
    """The card of `drivers/<provider>/card.toml`."""
    data = tomllib.loads((DRIVERS / provider / "card.toml").read_text(encoding="utf-8"))
    return Card(
        name=data["name"],
        summary=data["summary"],
        facets={Capability(key): _reason(key, line) for key, line in data["facets"].items()},
        rules={key: _reason(key, line) for key, line in data.get("rules", {}).items()},
        facts=data.get("facts", {}),
    )


def _reason(key: str, line: object) -> str:
    match line:
        case "done":
            return ""
        case {"exempt": str(reason)} if reason.strip():
            return reason
        case _:
            raise ValueError(f'{key} is neither "done" nor {{ exempt = "a reason" }}: {line!r}')
