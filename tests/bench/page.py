"""The table of all figures in docs/benchmarks.md: a run replaces the rows of what it measured."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- figures: made by `make bench` -->\n", "<!-- figures end -->\n"
_HEAD = "| measure | what | ours | peer | goal | met |\n|---|---|---|---|---|---|\n"


def updated(page: str, measured: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """The page with these results, as in bench-report.json, by the name of their measure."""
    before, rest = page.split(_BEGIN)
    table, after = rest.split(_END)
    kept = [
        row
        for row in table.removeprefix(_HEAD).splitlines(keepends=True)
        if row.split("|")[1].strip() not in measured
    ]
    made = [_row(name, result) for name, results in measured.items() for result in results]
    rows = sorted([*kept, *made], key=lambda row: row.split("|")[1])
    return f"{before}{_BEGIN}{_HEAD}{''.join(rows)}{_END}{after}"


def _row(name: str, result: Mapping[str, Any]) -> str:
    unit, peer = result["unit"], result["peer"]
    told = [
        name,
        result["name"],
        f"{result['ours']:g} {unit}",
        "" if peer is None else f"{peer:g} {unit}",
        f"{result['goal']:g} {unit}",
        "yes" if result["met"] else "no",
    ]
    return f"| {' | '.join(told)} |\n"
