"""A simulated guest keeps its journal, and the witness sees what it did."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.simulators.faults import STEADY, Direction, Faults, LostAnswer, too_many
from drivers.simulators.guest import (
    Disk,
    Guests,
    Nic,
    NoBootSector,
    format_journal,
    lost_writes,
    read_journal,
)
from drivers.simulators.witness import Witness

IDENTITY = bytes(range(16))
START = 2048 * 512
BUSY = replace(STEADY, journal_rate=200.0)


class Bytes:
    """A disk in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.frozen = False

    def read(self, offset, length):
        return bytes(self.data[offset : offset + length])

    def write(self, offset, data):
        if self.frozen:
            raise OSError("no such device")
        self.data[offset : offset + len(data)] = data

    def disk(self):
        return Disk(read=self.read, write=self.write, flush=lambda: None)


def journal_disk(identity=IDENTITY, size=64 * 1024):
    mbr = bytearray(512)
    mbr[510:512] = b"\x55\xaa"
    mbr[446 + 4] = 0xDA
    mbr[446 + 8 : 446 + 16] = (2048).to_bytes(4, "little") + (size // 512).to_bytes(4, "little")
    return Bytes(bytes(mbr).ljust(START, b"\0") + format_journal(identity, size))


def eventually(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "this never became true"
        time.sleep(0.005)


@pytest.fixture
def witness(tmp_path: Path):
    witness = Witness(tmp_path / "witness.db")
    yield witness
    witness.close()


@pytest.fixture
def site(witness):
    guests = Guests("paris", profile=BUSY, witness=witness)
    yield guests
    guests.close()


def test_every_write_that_was_told_durable_is_on_the_disk_after_the_plug_is_pulled(site, witness):
    disk = journal_disk()
    site.start("100", name="web-1", disk=disk.disk())
    eventually(lambda: witness.highest(IDENTITY.hex()) > 20)
    site.stop("100")
    after = bytes(disk.data)
    journal = read_journal(disk.read)
    assert journal.boots == 1
    assert not journal.damaged
    told = [record.sequence for record in witness.durable(IDENTITY.hex())]
    assert told == list(range(1, len(told) + 1))
    assert lost_writes(journal, told) == ()
    time.sleep(0.05)  # ten records' time: nothing may come after the plug
    assert bytes(disk.data) == after


def test_a_second_boot_goes_on_in_the_same_journal_also_past_the_end_of_its_ring(site, witness):
    disk = journal_disk()
    slots = read_journal(disk.read).slots
    for _ in range(2):
        site.start("100", name="web-1", disk=disk.disk())
        before = witness.highest(IDENTITY.hex())
        eventually(lambda before=before: witness.highest(IDENTITY.hex()) > before + slots * 0.6)
        site.stop("100")
    journal = read_journal(disk.read)
    assert journal.boots == 2
    assert journal.last > slots
    assert len(journal.records) == slots
    assert lost_writes(journal, (r.sequence for r in witness.durable(IDENTITY.hex()))) == ()
    assert "boots=2" in site.console("100")


def test_a_flipped_byte_in_a_record_is_a_lost_write(site, witness):
    disk = journal_disk()
    site.start("100", name="web-1", disk=disk.disk())
    eventually(lambda: witness.highest(IDENTITY.hex()) > 5)
    site.stop("100")
    disk.data[START + (8 + 2) * 512 + 300] ^= 1
    journal = read_journal(disk.read)
    assert journal.damaged == (2,)
    assert lost_writes(journal, (r.sequence for r in witness.durable(IDENTITY.hex()))) == (3,)


def test_two_connected_copies_are_an_overlap_and_an_isolated_one_is_a_twin(witness):
    nic = Nic(mac="52:54:00:00:00:01", address="10.0.4.12")
    isolated = replace(nic, connected=False)
    paris = Guests("paris", profile=BUSY, witness=witness)
    lyon = Guests("lyon", profile=BUSY, witness=witness)
    paris.start("100", name="web-1", disk=journal_disk().disk(), nics=(nic,))
    lyon.start("7", name="web-1", disk=journal_disk().disk(), nics=(isolated,))
    lyon.start("8", name="db-1", disk=None, nics=(nic,))
    eventually(witness.twins)
    assert witness.overlaps() == ()
    assert not lyon.reachable("7")
    lyon.set_nics("7", (nic,))
    eventually(witness.overlaps)
    [overlap] = witness.overlaps()
    assert (overlap.first.site, overlap.second.site) == ("paris", "lyon")
    assert len(witness.running(IDENTITY.hex())) == 2
    paris.close()
    lyon.close()
    assert witness.running(IDENTITY.hex()) == ()


def test_a_copy_that_starts_after_the_other_stopped_is_no_overlap(site, witness):
    nic = Nic(mac="52:54:00:00:00:01")
    for native in ("100", "101"):
        site.start(native, name="web-1", disk=journal_disk().disk(), nics=(nic,))
        site.stop(native)
    assert len(witness.history(IDENTITY.hex())) == 2
    assert witness.twins() == ()


def test_runs_that_a_killed_process_left_open_end_with_their_last_write(tmp_path):
    first = Witness(tmp_path / "w.db")
    run = first.guest_started(identity="ab", site="paris", native="1", boots=1, connected=True)
    first.wrote_durable(run, sequence=1, boot=1)
    first.close()
    second = Witness(tmp_path / "w.db")
    second.site_started("paris")
    [ended] = second.history("ab")
    assert ended.until == second.durable("ab")[0].at
    second.close()


def test_a_polite_shutdown_writes_a_last_record_and_tells_its_site(site, witness):
    disk = journal_disk()
    nic = Nic(mac="52:54:00:00:00:01", address="10.0.4.12")
    site.start("100", name="web-1", disk=disk.disk(), nics=(nic,), agent=True)
    assert not site.shutdown("100"), "nobody is up to hear it"
    eventually(lambda: site.ping("100"))
    gone = []
    assert site.shutdown("100", on_down=lambda: gone.append(True))
    eventually(lambda: gone)
    assert not site.is_on("100")
    assert not site.ping("100")
    assert f"down at journal={read_journal(disk.read).last}" in site.console("100")
    assert "ip=10.0.4.12 mac=52:54:00:00:00:01" in site.console("100")


def test_a_paused_guest_writes_nothing_until_it_is_resumed(site, witness):
    disk = journal_disk()
    site.start("100", name="web-1", disk=disk.disk())
    eventually(lambda: witness.highest(IDENTITY.hex()) > 3)
    site.pause("100")
    paused = bytes(disk.data)
    time.sleep(0.05)  # ten records' time: none may come
    assert bytes(disk.data) == paused
    site.resume("100")
    eventually(lambda: bytes(disk.data) != paused)


def test_disks_without_a_journal_still_boot_and_say_what_they_miss(site):
    odd = Bytes(b"no boot sector here".ljust(4096, b"\0"))
    broken = journal_disk()
    broken.data[START + 3] ^= 1
    failing = journal_disk()
    failing.frozen = True
    for native, disk in (("1", odd), ("2", broken), ("3", failing), ("4", Bytes(bytes(4096)))):
        site.start(native, name=f"n{native}", disk=disk.disk())
        eventually(lambda native=native: site.is_up(native))
    assert "no boot sector" in site.console("1")
    assert "journal header" in site.console("2")
    assert "read-only" in site.console("3")
    assert "FEDGUEST up name=n4 boots=0 journal=0" in site.console("4")
    with pytest.raises(NoBootSector):
        read_journal(odd.read)


def test_faults_come_as_often_as_asked_and_chance_repeats_with_its_seed():
    faults = Faults(STEADY, seed=1)
    faults.fail(too_many(3), method="POST", path=r"/qemu$", times=2)
    assert faults.next_for("GET", "/qemu", changes=False) is None
    assert faults.next_for("POST", "/qemu", changes=True) == too_many(3)
    assert faults.next_for("POST", "/qemu", changes=True) == too_many(3)
    assert faults.next_for("POST", "/qemu", changes=True) is None
    lossy = replace(STEADY, lost_answers=0.5)
    chances = [
        [Faults(lossy, seed=7).next_for("POST", "/", changes=True) for _ in range(20)]
        for _ in range(2)
    ]
    assert chances[0] == chances[1]
    one = Faults(lossy, seed=7)
    assert LostAnswer() in [one.next_for("POST", "/", changes=True) for _ in range(20)]
    assert all(one.next_for("GET", "/", changes=False) is None for _ in range(20))


def test_a_planned_flip_hits_one_byte_of_one_transfer():
    faults = Faults(STEADY, seed=1)
    faults.corrupt(Direction.IN, offset=6)
    assert faults.passed(Direction.OUT, 4, b"abcd") == b"abcd"
    assert faults.passed(Direction.IN, 0, b"abcd") == b"abcd"
    assert faults.passed(Direction.IN, 4, b"abcd") == b"abbd"
    assert faults.passed(Direction.IN, 4, b"abcd") == b"abcd"
