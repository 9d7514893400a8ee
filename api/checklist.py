"""The preflight checks as docs/preflight.md: `python -m api.checklist`."""

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from controlplane.planning.checks import CHECKS, GROUPS, Check

PLACE = Path(__file__).parents[1] / "docs" / "preflight.md"
_WEIGHTS = {"B": "blocks", "W": "warns", "I": "informs"}


def text() -> str:
    """The whole document."""
    done = sum(1 for check in CHECKS.values() if check.by)
    parts = (line for name, group in GROUPS.items() for line in _part(name, group))
    return "\n".join([*_opening(done), *parts])


def _opening(done: int) -> list[str]:
    return [
        "# Preflight checks",
        "",
        (
            "Made by `python -m api.checklist`; `make docs` writes it anew, and"
            " `tests/architecture/test_checks.py` fails while it is out of date."
        ),
        "",
        (
            f"{done} of {len(CHECKS)} checks look today. All of them run for every plan and none"
            " stops another; one that cannot look says so as a finding `unseen`. A plan with a"
            " blocker does not run."
        ),
        "",
    ]


def _part(name: str, group: Iterable[Check]) -> Iterator[str]:
    yield from (f"## {name}", "")
    for looks, some in groupby(sorted(group, key=lambda c: not c.by), key=lambda c: bool(c.by)):
        last = "may be waived" if looks else "not yet, because"
        yield from (f"| id | | if it fails | {last} |", "|---|---|---|---|")
        for check in some:
            weight = " or ".join(_WEIGHTS[letter] for letter in check.weight)
            told = ("yes" if check.waivable else "no") if looks else check.not_yet
            yield f"| {check.id} | {check.what} | {weight} | {told} |"
        yield ""


def main() -> None:
    PLACE.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"wrote {PLACE.name}\n")


if __name__ == "__main__":
    main()
