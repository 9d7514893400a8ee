"""Kills over whole moves: `make bench WHAT=soak KILLS=300 SEED=1`, or one case again with CASE=3.

A case is a cold or warm move of each lane, all at once, in which processes of a `fedctl dev` are
killed (SIGKILL) at drawn steps. A failure names seed and case; the case alone is run again by
them, as far as the clock of the machine lets it come out the same.
"""

import os
from collections.abc import Iterator

from rich.console import Console

from tests.bench.result import Result
from tests.e2e.soak import Tally, soak


def measure() -> Iterator[Result]:
    given = os.environ
    case = given.get("CASE")
    wanted = int(given.get("KILLS", "300"))
    tally = soak(
        seed=int(given.get("SEED", "1")),
        kills=wanted,
        lanes=int(given.get("LANES", "4")),
        each=int(given.get("EACH", "2")),
        case=int(case) if case else None,
        seconds=float(given.get("SECONDS", "3600")),
    )
    show(tally)
    yield Result(
        name=f"troubles after {tally.kills} kills in {tally.cases} cases",
        ours=len(tally.troubles),
        unit="",
        goal=0,
        breakdown={f"longest recovery from {v}": round(s, 1) for v, s in tally.recovery.items()},
    )
    assert not tally.troubles, "\n".join(tally.troubles)


def show(tally: Tally) -> None:
    out = Console(highlight=False)
    for title, counted in (
        ("killed", tally.victims),
        ("in step", tally.steps),
        ("outcomes", tally.outcomes),
        ("problems told", tally.problems),
    ):
        out.print(title + ":")
        for what, number in counted.most_common():
            out.print(f"  {number:4} {what}", markup=False)
    for trouble in tally.troubles:
        out.print(f"TROUBLE {trouble}", markup=False)
