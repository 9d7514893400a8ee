"""A local directory keeps whole objects or none."""

from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain.errors import Conflict, Invalid, NotFound
from controlplane.vault.local import LocalObjects


@pytest.fixture
def objects(tmp_path):
    return LocalObjects(tmp_path / "store")


def test_an_object_appears_when_it_is_finished(objects):
    upload = objects.upload("a/b")
    upload.write(b"hello ")
    assert list(objects.names("a")) == []
    upload.write(b"world")
    upload.finish()
    upload.abort()
    assert list(objects.names("a")) == ["a/b"]
    assert (objects.get("a/b"), objects.size("a/b")) == (b"hello world", 11)
    assert objects.get("a/b", 6, 3) == b"wor"
    assert objects.get("a/b", 6, 99) == b"world"
    assert objects.get("a/b", 99, 3) == b""


def test_a_taken_name_is_a_conflict_and_changes_nothing(objects):
    objects.put("x", b"one")
    with pytest.raises(Conflict):
        objects.put("x", b"two")
    assert objects.get("x") == b"one"


def test_absence_is_told(objects):
    objects.delete("nowhere/x")
    for ask in (objects.get, objects.size):
        with pytest.raises(NotFound):
            ask("nowhere/x")
    assert list(objects.names("nowhere")) == []


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", "a//b", ".coming/x", "a\nb", "é"])
def test_names_stay_inside(objects, name):
    with pytest.raises(Invalid):
        objects.put(name, b"")


def test_an_ended_upload_takes_nothing_more(objects):
    upload = objects.upload("x")
    upload.abort()
    for late in (lambda: upload.write(b"x"), upload.finish):
        with pytest.raises(Conflict):
            late()


def test_uploads_that_were_left_are_swept(objects, tmp_path):
    left = objects.upload("x")
    now = datetime.now(UTC)
    assert objects.sweep(now - timedelta(hours=1)) == 0
    assert objects.sweep(now + timedelta(hours=1)) == 1
    left.abort()
