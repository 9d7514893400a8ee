"""Raw files: holes are zeros, and writing leaves nothing else changed."""

import os
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import MIB, ExtentKind, is_shared
from controlplane.domain.errors import Integrity, Invalid, NotFound
from drivers.disks.raw import RawFile, RawFileWriter


def test_extents_tell_holes_and_cover_all(tmp_path):
    path = tmp_path / "disk"
    with path.open("wb") as f:
        f.truncate(20 * MIB + 5)
        for at in (0, 8 * MIB):
            f.seek(at)
            f.write(b"x" * 4096)
    disk = RawFile(path)
    seen = list(disk.extents())
    assert sum(e.length for e in seen) == disk.size == 20 * MIB + 5
    assert [e.offset for e in seen[1:]] == [e.offset + e.length for e in seen[:-1]]
    assert any(e.kind is ExtentKind.ZERO for e in seen)
    data = [e for e in seen if e.kind is ExtentKind.DATA]
    for at in (0, 8 * MIB):
        assert any(e.offset <= at < e.offset + e.length for e in data)
    assert disk.read(8 * MIB - 2, 4) == b"\0\0xx"
    disk.close()


def test_a_file_may_be_read_by_many_at_a_time(tmp_path):
    path = tmp_path / "disk"
    content = random.Random(1).randbytes(4 * MIB)
    path.write_bytes(content)
    disk = RawFile(path)
    assert is_shared(disk)
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda at: disk.read(at, 1000), range(0, 4 * MIB - 1000, 1000))
        assert content.startswith(b"".join(parts))
    disk.close()


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 300_000), st.integers(0, 100_000)), max_size=8
    )
)
def test_a_writer_does_what_it_is_told(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("raw") / "disk"
    size = 400_000
    expected = bytearray(size)
    writer = RawFileWriter(path, size)
    for write, at, length in steps:
        if write:
            data = random.Random(at).randbytes(length)
            writer.write(at, data)
            expected[at : at + length] = data
        else:
            writer.zero(at, length)
            expected[at : at + length] = bytes(length)
    writer.finish()
    writer.close()
    assert path.read_bytes() == bytes(expected)


def test_zeroing_a_hole_takes_no_room(tmp_path):
    path = tmp_path / "disk"
    writer = RawFileWriter(path, 64 * MIB)
    writer.zero(0, 64 * MIB)
    writer.finish()
    writer.close()
    assert path.stat().st_blocks * 512 < MIB


def test_ranges_outside_and_files_cut_meanwhile_are_refused(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 1000)
    disk = RawFile(path)
    with pytest.raises(Invalid):
        disk.read(999, 2)
    os.truncate(path, 10)
    with pytest.raises(Integrity, match="cut to 10"):
        disk.read(0, 1000)
    disk.close()
    with pytest.raises(NotFound):
        RawFile(tmp_path / "nowhere")
