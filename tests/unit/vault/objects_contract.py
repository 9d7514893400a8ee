"""What every object store keeps to; a store's test class gives one `objects` fixture."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from controlplane.domain.errors import Conflict, Invalid, NotFound
from controlplane.vault.ports import ObjectStore

MANY_PARTS = 12_000_000


def sent(objects: ObjectStore, name: str, data: bytes, step: int = 100_000) -> None:
    upload = objects.upload(name)
    try:
        for at in range(0, len(data), step):
            upload.write(data[at : at + step])
        upload.finish()
    finally:
        upload.abort()


class ObjectsContract:
    def test_an_object_appears_when_it_is_finished(self, objects):
        upload = objects.upload("a/b")
        upload.write(b"hello ")
        assert list(objects.names("a")) == []
        upload.write(b"world")
        upload.finish()
        upload.abort()
        assert list(objects.names("a")) == ["a/b"]
        assert (objects.get("a/b"), objects.size("a/b")) == (b"hello world", 11)

    def test_ranges_end_where_the_object_ends(self, objects):
        objects.put("a/b", b"hello world")
        assert objects.get("a/b", 6, 3) == b"wor"
        assert objects.get("a/b", 6, 99) == b"world"
        assert objects.get("a/b", 6) == b"world"
        assert (
            objects.get("a/b", 99, 3) == objects.get("a/b", 11, 1) == objects.get("a/b", 11) == b""
        )
        assert objects.get("a/b", 3, 0) == b""

    def test_an_empty_object_is_one(self, objects):
        objects.put("x", b"")
        sent(objects, "y/z", b"")
        assert (objects.get("x"), objects.get("x", 0, 5), objects.size("y/z")) == (b"", b"", 0)
        assert list(objects.names("y")) == ["y/z"]

    def test_a_long_object_is_whole_or_not_there(self, objects):
        data = random.Random(1).randbytes(MANY_PARTS)
        upload = objects.upload("packs/aa/aab")
        for at in range(0, len(data), 700_000):
            upload.write(data[at : at + 700_000])
            assert list(objects.names("packs")) == []
        upload.finish()
        upload.abort()
        assert objects.size("packs/aa/aab") == len(data)
        assert objects.get("packs/aa/aab") == data
        assert objects.get("packs/aa/aab", 5_000_000, 3_000_000) == data[5_000_000:8_000_000]

    def test_a_long_object_that_was_given_up_leaves_nothing(self, objects):
        upload = objects.upload("packs/aa/aab")
        upload.write(bytes(MANY_PARTS))
        upload.abort()
        upload.abort()
        assert list(objects.names("packs")) == []
        assert objects.sweep(datetime.now(UTC) + timedelta(hours=1)) == 0
        sent(objects, "packs/aa/aab", b"another")
        assert objects.get("packs/aa/aab") == b"another"

    @pytest.mark.parametrize("length", [3, MANY_PARTS])
    def test_a_taken_name_is_a_conflict_and_changes_nothing(self, objects, length):
        objects.put("x", b"one")
        with pytest.raises(Conflict):
            objects.put("x", b"one")
        upload = objects.upload("x")
        upload.write(bytes(length))
        with pytest.raises(Conflict):
            upload.finish()
        upload.abort()
        assert objects.get("x") == b"one"
        assert objects.sweep(datetime.now(UTC) + timedelta(hours=1)) == 0

    def test_of_many_who_want_a_name_one_gets_it(self, objects):
        def put(number: int) -> int | None:
            try:
                objects.put("incarnations/000002", b"%d" % number)
            except Conflict:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            won = [number for number in pool.map(put, range(8)) if number is not None]
        assert len(won) == 1
        assert objects.get("incarnations/000002") == b"%d" % won[0]

    def test_many_threads_share_it(self, objects):
        def round_trip(number: int) -> bool:
            name, data = f"packs/{number:02d}/x", random.Random(number).randbytes(50_000)
            sent(objects, name, data, 7_000)
            return objects.get(name) == data and objects.size(name) == len(data)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(round_trip, range(24)))
        assert len(list(objects.names("packs"))) == 24

    def test_a_folder_shows_its_own_names_and_all_of_them(self, objects):
        names = {f"heads/acme/{i:02d}" for i in range(30)} | {"headsman/x", "head", "points/p"}
        for name in names:
            objects.put(name, b"x")
        assert set(objects.names("heads")) == {n for n in names if n.startswith("heads/")}
        assert set(objects.names("heads/acme")) == set(objects.names("heads"))

    def test_what_is_deleted_is_gone_and_may_come_again(self, objects):
        objects.put("a/b", b"one")
        objects.delete("a/b")
        objects.delete("a/b")
        assert list(objects.names("a")) == []
        objects.put("a/b", b"two")
        assert objects.get("a/b") == b"two"

    def test_absence_is_told(self, objects):
        objects.delete("nowhere/x")
        for ask in (
            objects.get,
            objects.size,
            lambda name: objects.get(name, 0, 0),
            lambda name: objects.get(name, 5),
            lambda name: objects.get(name, 5, 5),
        ):
            with pytest.raises(NotFound, match="nowhere/x"):
                ask("nowhere/x")
        assert list(objects.names("nowhere")) == []

    @pytest.mark.parametrize("name", ["", "/x", "../x", "a/../b", "a//b", ".coming/x", "a\nb", "é"])
    def test_names_stay_inside(self, objects, name):
        for use in (lambda: objects.put(name, b""), lambda: objects.upload(name)):
            with pytest.raises(Invalid):
                use()

    def test_an_ended_upload_takes_nothing_more(self, objects):
        upload = objects.upload("x")
        upload.abort()
        for late in (lambda: upload.write(b"x"), upload.finish):
            with pytest.raises(Conflict):
                late()
        ended = objects.upload("x")
        ended.finish()
        with pytest.raises(Conflict):
            ended.write(b"x")

    def test_uploads_that_were_left_are_swept(self, objects):
        left = objects.upload("packs/x")
        left.write(bytes(MANY_PARTS))
        assert objects.sweep(datetime(2001, 1, 1, tzinfo=UTC)) == 0
        assert objects.sweep(datetime.now(UTC) + timedelta(hours=1)) == 1
        assert objects.sweep(datetime.now(UTC) + timedelta(hours=1)) == 0
        left.abort()
        assert list(objects.names("packs")) == []
