"""A store behind a line of so many bytes a second."""

import pytest

from controlplane.vault.local import LocalObjects
from controlplane.vault.paced import PacedObjects
from tests.unit.vault.objects_contract import ObjectsContract


class TestPacedObjects(ObjectsContract):
    @pytest.fixture
    def objects(self, tmp_path):
        return PacedObjects(LocalObjects(tmp_path), 10_000_000, wait=lambda _: None)


def test_what_went_by_takes_the_time_that_the_limit_says_each_way(tmp_path):
    now = [100.0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    objects = PacedObjects(LocalObjects(tmp_path), 1_000_000, clock=lambda: now[0], wait=wait)
    upload = objects.upload("packs/a")
    for _ in range(30):
        upload.write(bytes(100_000))
    upload.finish()
    assert now[0] - 100 == pytest.approx(3 - 0.25)
    now[0] = 200.0
    assert len(objects.get("packs/a")) == 3_000_000
    assert now[0] - 200 == pytest.approx(3 - 0.25)
    now[0] = 300.0
    objects.put("a", bytes(1_000_000))
    assert now[0] - 300 == pytest.approx(1 - 0.25)
