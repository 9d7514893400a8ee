"""A small part of the soak: every process dies once on a cold and once on a warm move.

Two moves at once take the better part of a minute, and each death of a worker the ten seconds
after which it counts as dead. SOAK_SEED draws other moments; `make bench WHAT=soak` goes on for
hundreds of them.
"""

import os

import pytest

from tests.e2e.kills import each_once
from tests.e2e.soak import soaking


@pytest.mark.timeout(420)
def test_every_process_may_die_on_a_cold_and_on_a_warm_move() -> None:
    """Each move ends right or is asked for again; nothing ran twice, nothing is lost or left."""
    seed = int(os.environ.get("SOAK_SEED", "1"))
    again = f"SOAK_SEED={seed} .venv/bin/python -m pytest tests/e2e/test_soak.py"
    with soaking(seed=seed) as running:
        running.play(each_once(seed), again)
        if not running.tally.troubles:
            running.end()
    assert not running.tally.troubles, "\n".join(running.tally.troubles)
    assert running.tally.kills, f"nothing was killed: again by {again}"
