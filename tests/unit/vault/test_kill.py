"""A copy whose process is killed outright goes on in another one, over real records and files.

Starting processes and copying 96 MiB takes a few seconds.
"""

import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import UUID

import pytest

from controlplane.domain.ids import PointId
from controlplane.store.engine import Store
from controlplane.store.ports import StoredVault
from controlplane.vault.digest import digest
from drivers.disks.raw import RawFile
from tests.unit.vault.support import World, commit, copy

POINT = PointId(UUID(int=5))
SIZE = 96 * 1024 * 1024 + 777

CHILD = """
import sys
from pathlib import Path
from controlplane.store.engine import Store
from controlplane.store.ports import StoredVault
from controlplane.vault import pack
from tests.unit.vault.support import World, copy
from tests.unit.vault.test_kill import POINT, Counted
pack.PACK_BYTES = 3 << 20
folder = Path(sys.argv[1])
world = World(folder / "store")
world.records = StoredVault(Store(f"sqlite:///{folder}/db"))
copy(world.vault(), Counted(folder / "disk"), point=POINT, attempt=int(sys.argv[2]))
"""


class Counted(RawFile):
    """A raw file that adds up what was read of it."""

    total = 0

    def read(self, offset: int, length: int) -> bytes:
        self.total += length
        return super().read(offset, length)


@pytest.mark.parametrize("packs", [1, 22])
def test_a_killed_process_loses_only_what_was_not_sealed(tmp_path: Path, packs: int):
    disk = tmp_path / "disk"
    disk.write_bytes(random.Random(packs).randbytes(SIZE))
    store = Store(f"sqlite:///{tmp_path}/db")
    store.migrate()
    root = Path(__file__).parents[3]
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), "1"], cwd=root)
    deadline = time.monotonic() + 30
    world = World(tmp_path / "store")
    while len(world.files("packs")) < packs and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait(10) in {-signal.SIGKILL, 0}
    try:
        world.records = StoredVault(store)
        with closing(Counted(disk)) as reader:
            vault = world.vault()
            copied = copy(vault, reader, point=POINT, attempt=2)
            if packs > 1:
                assert reader.total < SIZE
            commit(vault, POINT, attempt=2)
            again = vault.open(POINT, 0)
            assert digest(again, length=SIZE) == copied.digest == digest(reader, length=SIZE)
    finally:
        world.close()
        store.close()
