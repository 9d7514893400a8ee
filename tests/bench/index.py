"""The chunk index with 30 million unique chunks in it: does it get slower, how much memory it takes.

The index is made of random ids, in commits of 64 packs of 1,024 chunks as 64 KiB of random bytes
give; a process of its own then copies 256 MiB of random data into a vault that has it.
`FEDCTL_BENCH_CHUNKS` makes it smaller.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter, process_time

from sqlalchemy import insert

from controlplane.domain.disk import MIB
from controlplane.domain.vault import PackState
from controlplane.store.engine import Store
from controlplane.store.ports import StoredVault
from controlplane.store.vault_rows import PackRow
from controlplane.vault.cache import Cache, Folder
from drivers.disks.raw import RawFile
from tests.bench.result import Result
from tests.unit.vault.support import DOMAIN, World, commit, copy, new_point

CHUNKS = int(os.environ.get("FEDCTL_BENCH_CHUNKS") or 30_000_000)
PACK = 1024
PACKS = 64
DISK = 256 * MIB
GOAL_RATE = 0.7
GOAL_MIB = 300.0


def measure() -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="fedctl-bench-") as name:
        folder = Path(name)
        built = _child("build", folder)
        copied = _child("copy", folder)
    tenths = built["tenths"]
    return [
        Result(
            name=f"index: slower at the end of {CHUNKS / 1e6:g} million chunks than at the start",
            ours=round(tenths[0] / tenths[-1], 2),
            unit="times",
            goal=round(1 / GOAL_RATE, 2),
            breakdown={
                "thousand a second in the first tenth": round(tenths[0] / 1e3),
                "in the last tenth": round(tenths[-1] / 1e3),
                "in the slowest tenth": round(min(tenths) / 1e3),
                "slower in CPU time": round(built["busy"][0] / built["busy"][-1], 2),
                "seconds for all": round(built["seconds"], 1),
                "segments": built["segments"],
                "MiB on disk": built["mib"],
                "MiB of memory while it grew": built["rss"],
            },
        ),
        Result(
            name="index: memory of a copy beside it",
            ours=copied["rss"],
            unit="MiB",
            goal=GOAL_MIB,
            breakdown={
                "before the copy": copied["before"],
                "seconds of the copy of 256 MiB": copied["seconds"],
                "microseconds to miss a chunk": copied["miss"],
            },
        ),
    ]


def _child(what: str, folder: Path) -> dict:
    command = [sys.executable, "-m", "tests.bench.index", what, str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def _rss() -> int:
    """The most memory that this process ever had, in MiB; `ru_maxrss` counts its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def _build(folder: Path) -> dict:
    place = Folder(folder / "index")
    cache = Cache(place.path, DOMAIN)
    rng, done, part, tenths, busy = random.Random(1), 0, 0, [], []
    spent, worked, seconds = 0.0, 0.0, 0.0
    with (folder / "packs").open("wb") as known:
        while done < CHUNKS:
            packs = {
                rng.randbytes(32): [(os.urandom(32), at) for at in range(PACK)]
                for _ in range(PACKS)
            }
            known.write(b"".join(packs))
            start, began = perf_counter(), process_time()
            cache.add(packs)
            spent, worked = spent + perf_counter() - start, worked + process_time() - began
            done, part = done + PACK * PACKS, part + PACK * PACKS
            if done * 10 >= CHUNKS * (len(tenths) + 1):
                tenths.append(part / spent)
                busy.append(part / worked)
                seconds, spent, worked, part = seconds + spent, 0.0, 0.0, 0
    files = list((folder / "index").glob("*.segment"))
    size = sum(file.stat().st_size for file in files) // MIB
    cache.close()
    place.close()
    return {
        "tenths": tenths, "busy": busy, "seconds": seconds, "segments": len(files), "mib": size, "rss": _rss(),
    }  # fmt: skip


def _copy(folder: Path) -> dict:
    packs = (folder / "packs").read_bytes()
    store = Store(f"sqlite:///{folder}/db")
    store.migrate()
    state = {"domain": DOMAIN, "state": PackState.VERIFIED.value, "session": None, "waits_for": 0}
    with store.begin() as tx:
        rows = [{"pack": packs[at : at + 32], **state} for at in range(0, len(packs), 32)]
        tx.vault._work.execute(insert(PackRow), rows)
    del rows, packs
    with (folder / "disk").open("wb") as disk:
        for _ in range(DISK // MIB):
            disk.write(os.urandom(MIB))
    before = _rss()
    world = World(folder / "store")
    world.records = StoredVault(store)
    vault = world.vault(index=folder / "index")
    point = new_point()
    start = perf_counter()
    with closing(RawFile(folder / "disk")) as reader:
        copied = copy(vault, reader, point=point)
    commit(vault, point)
    seconds = perf_counter() - start
    assert copied.bytes_new == DISK
    absent = [os.urandom(32) for _ in range(10_000)]
    start = perf_counter()
    assert not vault._index.find(DOMAIN, absent)
    miss = (perf_counter() - start) / len(absent)
    rss = _rss()
    world.close()
    store.close()
    return {
        "rss": rss, "before": before, "seconds": round(seconds, 1), "miss": round(miss * 1e6, 1),
    }  # fmt: skip


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"build": _build, "copy": _copy}[sys.argv[1]](Path(sys.argv[2]))))
