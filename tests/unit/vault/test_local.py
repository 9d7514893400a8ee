"""A local directory keeps whole objects or none."""

import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain.errors import Unavailable
from controlplane.vault.local import FoundObjects, LocalObjects
from tests.unit.vault.objects_contract import ObjectsContract


class TestLocalObjects(ObjectsContract):
    @pytest.fixture
    def objects(self, tmp_path):
        return LocalObjects(tmp_path / "store")

    def test_an_upload_that_goes_on_is_not_swept(self, objects):
        left = objects.upload("x")
        now = datetime.now(UTC)
        assert objects.sweep(now - timedelta(hours=1)) == 0
        assert objects.sweep(now + timedelta(hours=1)) == 1
        left.abort()


def test_a_folder_that_went_is_made_again(tmp_path):
    """A store that was put back as it was yesterday has fewer."""
    objects = LocalObjects(tmp_path / "store")
    objects.put("packs/ab/abcd", b"one")
    shutil.rmtree(tmp_path / "store" / "packs")
    objects.put("packs/ab/abce", b"two")
    assert objects.get("packs/ab/abce") == b"two"


@pytest.mark.parametrize("kind", [LocalObjects, FoundObjects])
def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path, kind):
    """An answer that leaves some out would say that they are lost: records would forget them."""
    objects = LocalObjects(tmp_path)
    objects.put("packs/ab/abcd", b"one")
    for broken in ("packs", "heads"):
        shutil.rmtree(tmp_path / broken, ignore_errors=True)
        (tmp_path / broken).write_bytes(b"no folder")  # as a disk that fails, for root as well
        with pytest.raises(Unavailable, match=broken):
            list(kind(tmp_path).names(broken))
    assert list(kind(tmp_path).names("points")) == []


class TestFoundObjects(ObjectsContract):
    @pytest.fixture
    def objects(self, tmp_path):
        return FoundObjects(tmp_path)

    def test_a_folder_that_is_not_there_is_away_and_is_not_made(self, tmp_path):
        root = tmp_path / "mount" / "copy"
        objects = FoundObjects(root)
        for ask in (
            lambda: objects.put("heads/a", b"x"),
            lambda: objects.upload("heads/a"),
            lambda: objects.get("heads/a"),
            lambda: objects.size("heads/a"),
            lambda: objects.delete("heads/a"),
            lambda: list(objects.names("heads")),
            lambda: objects.sweep(datetime.now(UTC)),
        ):
            with pytest.raises(Unavailable, match="mount its disk"):
                ask()
        assert not root.parent.exists()
        root.mkdir(parents=True)
        assert objects.sweep(datetime.now(UTC)) == 0
        objects.put("heads/a", b"x")
        assert objects.get("heads/a") == b"x"


@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_file_system_that_takes_less_than_it_is_given_gets_the_rest(
    tmp_path, monkeypatch, most: int
):
    """Also more parts than one call takes, and empty ones."""
    parts = [bytes([n % 251]) * (n % 5) for n in range(2500)]
    writev = os.writev

    def some(file: int, given) -> int:
        assert len(given) <= 1024
        whole = b"".join(given)
        return writev(file, [whole[:most]])

    monkeypatch.setattr(os, "writev", some)
    objects = LocalObjects(tmp_path / "vault")
    upload = objects.upload("packs/aa/many")
    upload.write(*parts[:2000])
    upload.write(*parts[2000:])
    upload.finish()
    assert objects.get("packs/aa/many") == b"".join(parts)
