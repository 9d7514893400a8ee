"""The chunk index with 30 million unique chunks in it: does it get slower, how much memory it takes.

The index is made of random ids, in commits of 64 packs of 1,024 chunks as 64 KiB of random bytes
give; a process of its own then copies 256 MiB of random data into a vault that has it.
`FEDCTL_BENCH_CHUNKS` makes it smaller.
"""

import json
import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter

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
    tenth = CHUNKS / 10 / 1e3
    return [
        Result(
            name=f"index: slower at the end of {CHUNKS / 1e6:g} million chunks than at the start",
            ours=round(built["last"] / built["first"], 2),
            unit="times",
            goal=round(1 / GOAL_RATE, 2),
            breakdown={
                "thousand a second in the last tenth": round(tenth / built["last"]),
                "in the first, at the same time": round(tenth / built["first"]),
                "seconds for all": round(built["all"], 1),
                "seconds for the longest commit, with its merges": round(built["longest"], 1),
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
    """While the last tenth goes in, an empty index takes the same in turns: the start's rate."""
    place, beside = Folder(folder / "index"), Folder(folder / "beside")
    cache, empty = Cache(place.path, DOMAIN), Cache(beside.path, DOMAIN)
    spent = {"all": 0.0, "last": 0.0, "first": 0.0}
    done, longest = 0, 0.0

    def add(to: Cache, packs: dict, *what: str) -> float:
        start = perf_counter()
        to.add(packs)
        took = perf_counter() - start
        for each in what:
            spent[each] += took
        return took

    with (folder / "packs").open("wb") as known:
        while done < CHUNKS:
            packs = {
                os.urandom(32): [(os.urandom(32), at) for at in range(PACK)] for _ in range(PACKS)
            }
            known.write(b"".join(packs))
            if done < CHUNKS * 0.9:
                took = add(cache, packs, "all")
            else:
                took = add(cache, packs, "all", "last")
                add(empty, packs, "first")
            done, longest = done + PACK * PACKS, max(longest, took)
    files = list((folder / "index").glob("*.segment"))
    size = sum(file.stat().st_size for file in files) // MIB
    for one in (cache, empty, place, beside):
        one.close()
    return {**spent, "longest": longest, "segments": len(files), "mib": size, "rss": _rss()}


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
