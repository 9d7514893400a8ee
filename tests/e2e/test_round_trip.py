"""An instance goes to the other provider and home again with every byte.

Each takes some seconds: a gibibyte is read at the source, sent to the target and read back, twice.
"""

import filecmp
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.e2e.images import MIB, qcow2_image
from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, until

pytestmark = pytest.mark.timeout(240)
ADDRESS, MAC = "10.0.4.12", "52:54:00:12:34:56"


@pytest.mark.parametrize(
    ("form", "first", "second"),
    [("raw", OPENSTACK, PROXMOX), ("qcow2", PROXMOX, OPENSTACK)],
)
def test_an_instance_goes_there_and_home_with_every_byte(
    shop: Shop, form: str, first: str, second: str
) -> None:
    file = shop.file(size=64 * MIB, data=6 * MIB)
    if form == "qcow2":
        file = qcow2_image(file.with_suffix(".qcow2"), file)
    name = shop.instance(first, image=shop.image(file), address=ADDRESS, mac=MAC)
    until(lambda: shop.journal(name).last > 3, "the guest writes")
    for to in (second, first):
        before = shop.journal(name)
        status = shop.moved(name, to)
        assert status["result"]["downtimeSeconds"] > 0
        assert status["result"]["bytesRead"] > 6 * MIB
        until(lambda seen=before.last: shop.journal(name).last > seen, "the guest writes on")
        after = shop.journal(name)
        assert after.identity == before.identity
        # Each power-on is a boot that the disk counts, and no copy of the disk counts another's.
        assert before.boots < after.boots == shop.runs(name)[-1].boots
        assert after.damaged == ()
        assert shop.system.troubles() == []
        placement = shop.placement(name)
        assert (placement["address"], placement["mac"]) == (ADDRESS, MAC)
        assert placement["site"] == to
        assert {kept["site"] for kept in placement["retained"]} <= {first, second}
    shop.system.done(shop.http.post(f"{shop.move_path(shop.last_move)}/finalize"))
    assert shop.placement(name)["retained"] == []
    assert shop.power(name) == "on"


def test_a_recovery_point_is_extracted_into_a_file(shop: Shop, tmp_path: Path) -> None:
    """By a process of its own that asks neither the API nor Temporal."""
    file = shop.file(size=64 * MIB, data=6 * MIB)
    name = shop.image(file)
    point = str(shop.system.parts.vault.points()[-1].point)
    out = tmp_path / f"{name}.raw"

    def extract(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "api.extract", *map(str, words)],
            env=shop.system.environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    done = extract(point, out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "every block checked" in done.stdout
    assert filecmp.cmp(file, out, shallow=False)
    again = extract(point, out)
    assert again.returncode == 5
    assert "is there already" in again.stderr
    assert filecmp.cmp(file, out, shallow=False)
    assert "has no disk 7" in extract(point, tmp_path / "b", "--disk", 7).stderr
    assert "not in the vault" in extract(uuid4(), tmp_path / "b").stderr
    assert "no such folder" in extract(point, tmp_path / "none" / "b").stderr
    assert not (tmp_path / "b").exists()
