"""Runs the measurements named, or all; writes bench-report.json and docs/benchmarks.md's table."""

import argparse
import json
import logging
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import (
    cancel,
    copying,
    direct,
    embedded,
    index,
    many,
    overhead,
    restore,
    soak,
    warm,
)
from tests.bench.page import PAGE, updated
from tests.bench.result import Result

MEASURES = {
    "cancel": cancel.measure,
    "copying": copying.measure,
    "direct": direct.measure,
    "embedded": embedded.measure,
    "index": index.measure,
    "many": many.measure,
    "overhead": overhead.measure,
    "restore": restore.measure,
    "soak": soak.measure,
    "warm": warm.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("names", nargs="*", choices=[*MEASURES, []], help="which; all by default")
    parser.add_argument("--report", type=Path, default=Path("bench-report.json"))
    wished = parser.parse_args()
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    measured = {name: list(MEASURES[name]()) for name in wished.names or MEASURES}
    told = {name: [each.as_json() for each in found] for name, found in measured.items()}
    report = {"results": [each for found in told.values() for each in found]}
    wished.report.write_text(json.dumps(report, indent=2) + "\n")
    PAGE.write_text(updated(PAGE.read_text(), told))
    show([each for found in measured.values() for each in found])


def show(results: list[Result]) -> None:
    table = Table("what", "ours", "peer", "goal", "met")
    for each in results:
        peer = f"{each.peer:g} {each.unit}" if each.peer is not None else "-"
        met = "yes" if each.as_json()["met"] else "NO"
        table.add_row(each.name, f"{each.ours:g} {each.unit}", peer, f"{each.goal:g}", met)
        for step, seconds in (each.breakdown or {}).items():
            table.add_row(f"  {step}", f"{seconds:g}", "", "", "", style="dim")
    Console().print(table)


main()
