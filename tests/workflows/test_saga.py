"""What runs side by side, by itself; the stories show the rest."""

import asyncio

from workflows.saga import together


async def test_a_story_that_is_thrown_out_of_the_cache_waits_for_nothing_more() -> None:
    """Its coroutines are closed; one that awaits then ends as an error of whatever runs next."""
    others = asyncio.all_tasks()
    beside = together(asyncio.Event().wait(), asyncio.Event().wait())
    beside.send(None)
    beside.close()
    for task in asyncio.all_tasks() - others:
        task.cancel()
