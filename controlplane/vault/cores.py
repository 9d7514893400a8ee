"""How many threads work at one disk: one a core, as far as the memory of a copy allows."""

import os

_LEAST = 2
_MOST = 6  # each holds a pack in the making and what it stored last, some 35 MB at the most


def cores() -> int:
    """Of those that this process may use; two on a machine with one, so that waiting overlaps."""
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(max(able or 1, _LEAST), _MOST)


CORES = cores()
