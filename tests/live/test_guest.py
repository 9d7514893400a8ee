"""The guest of the live tests, booted by QEMU where it is installed."""

import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from drivers.simulators.journal import read_journal
from tests.live import guest

QEMU = shutil.which("qemu-system-x86_64")
SOURCE = Path(__file__).with_name("guest.S")
DEVICES = {
    "virtio": ("virtio-blk-pci,drive=d",),
    "scsi": ("virtio-scsi-pci", "scsi-hd,drive=d"),
    "ide": ("ide-hd,drive=d",),
}
SECONDS = 20.0


def boot(
    disk: Path,
    machine: str = "pc",
    devices: tuple[str, ...] = DEVICES["virtio"],
    until: str = guest.DOWN,
) -> str:
    """What the guest printed until `until`; its power button is pressed once it is up."""
    with subprocess.Popen(
        [
            QEMU, "-machine", machine, "-accel", "tcg", "-m", "32", "-nodefaults", "-display", "none",
            "-no-reboot", "-serial", "stdio", "-monitor", f"unix:{disk}.monitor,server=on,wait=off",
            "-drive", f"file={disk},format=raw,if=none,id=d",
            *(part for device in devices for part in ("-device", device)),
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    ) as qemu:  # fmt: skip
        assert qemu.stdout is not None
        late = threading.Timer(SECONDS, qemu.kill)
        late.start()
        lines = []
        try:
            for line in qemu.stdout:
                lines.append(line)
                if guest.UP in line:
                    press_power(Path(f"{disk}.monitor"))
                elif until in line and until != guest.DOWN:
                    break
        finally:
            late.cancel()
            qemu.kill()
        return "".join(lines)


def press_power(monitor: Path) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(monitor))
        line.settimeout(SECONDS)
        line.sendall(b"system_powerdown\n")
        said = b""
        while said.count(b"(qemu)") < 2 and (part := line.recv(4096)):
            said += part


needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")


@needs_qemu
@pytest.mark.parametrize("bus", DEVICES)
def test_each_boot_counts_and_the_power_button_ends_it(tmp_path: Path, bus: str):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(guest.counting(seed=3))
    for number in (1, 2):
        printed = boot(disk, "q35" if bus == "virtio" else "pc", DEVICES[bus])
        assert guest.told(printed) == number == guest.counted(disk.read_bytes())
        assert guest.DOWN in printed


@needs_qemu
def test_a_quiet_guest_boots_and_writes_nothing(tmp_path: Path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(guest.quiet())
    assert guest.told(boot(disk)) == 0
    assert disk.read_bytes() == guest.quiet()


@needs_qemu
def test_a_broken_counter_is_told(tmp_path: Path):
    disk = tmp_path / "disk.raw"
    made = bytearray(guest.counting(seed=3))
    made[64 * 512 : 65 * 512] = bytes(512)
    disk.write_bytes(made)
    printed = boot(disk, until="FEDGUEST disk=broken")
    assert "FEDGUEST disk=broken" in printed
    assert guest.told(printed) is None


@pytest.mark.skipif(shutil.which("ld") is None, reason="no assembler is installed")
def test_the_bytes_are_those_of_the_source(tmp_path: Path):
    parts, made = tmp_path / "guest.o", tmp_path / "guest.bin"
    subprocess.run(["as", "--32", str(SOURCE), "-o", str(parts)], check=True)
    subprocess.run(
        ["ld", "-m", "elf_i386", "-Ttext", "0x7c00", "-e", "start", "--oformat", "binary",
         "-o", str(made), str(parts)],
        check=True,
    )  # fmt: skip
    assert made.read_bytes() == guest.CODE


def test_a_journal_is_put_behind_what_a_disk_holds():
    before = guest.quiet()
    made = guest.with_journal(before, seed=5)
    assert made[:446] == before[:446]
    assert made[512 : len(before)] == before[512:]
    journal = read_journal(lambda at, length: made[at : at + length])
    assert journal is not None
    assert (journal.boots, journal.last) == (0, 0)
