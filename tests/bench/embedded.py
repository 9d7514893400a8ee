"""How soon `fedctl dev` is ready, and how much memory all of its processes take."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

from tests.bench.result import Result
from tests.e2e.system import until

ROUNDS = 3
MIB = 1024 * 1024


def measure() -> Iterator[Result]:
    measured = [_start() for _ in range(ROUNDS)]
    yield Result(
        name="fedctl dev is ready",
        ours=round(median(seconds for seconds, _ in measured), 2),
        unit="s",
        goal=10,
    )
    yield Result(
        name="memory of fedctl dev (PSS)",
        ours=round(median(mib for _, mib in measured), 1),
        unit="MiB",
        goal=700,
    )


def _start() -> tuple[float, float]:
    """Seconds to readiness from nothing, and MiB of all processes then."""
    with TemporaryDirectory() as folder, _dev(Path(folder)) as (process, began):
        until((Path(folder) / "ready").exists, "fedctl dev is ready", 60, every=0.02)
        ready = monotonic() - began
        return ready, sum(_pss(pid) for pid in _family(process.pid)) / MIB


@contextmanager
def _dev(state: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    began = monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli.main", "dev", "--state", str(state)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process, began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _family(pid: int) -> list[int]:
    parents = {each: _parent(each) for each in _pids()}
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def _pids() -> list[int]:
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _pss(pid: int) -> int:
    """Proportional set size in bytes: shared pages are counted once among their sharers."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
