"""What looks round beside a worker breaks for nobody else, and not unseen."""

import asyncio
import logging
from datetime import timedelta

import pytest

from workflows.rounds import rounds, side_by_side


async def test_one_that_breaks_is_told_at_once_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop = asyncio.Event()
    looked = 0

    async def look() -> None:
        nonlocal looked
        looked += 1
        if looked == 3:
            assert "a part of this worker ended" in caplog.text
            assert "a bug of ours" in caplog.text
            stop.set()

    async def breaks() -> None:
        raise TypeError("a bug of ours")

    with caplog.at_level(logging.ERROR), pytest.raises(TypeError, match="a bug of ours"):
        await side_by_side(
            rounds(stop, timedelta(seconds=0.01), breaks),
            rounds(stop, timedelta(seconds=0.05), look),
        )
    assert looked == 3
