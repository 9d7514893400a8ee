"""Root's ssh at a simulated Proxmox VE site, and disks through its qemu-nbd."""

from dataclasses import replace

import asyncssh
import pytest

from controlplane.domain.disk import MIB, ExtentKind
from controlplane.domain.errors import Denied, Integrity, Invalid, Unavailable
from drivers.disks.nbd import NbdConnection
from drivers.disks.nbd_disk import NbdReader, NbdWriter
from drivers.disks.ssh import Ssh, fingerprint
from drivers.simulators.faults import Direction, Hang, LostAnswer, Reset
from tests.simulators.proxmox.test_vms import bytes_of, write

VOLID = "local-zfs:vm-100-disk-0"
ZVOL = "/dev/zvol/rpool/data/vm-100-disk-0"


def serve(shell: Ssh, *options: str, path: str = ZVOL, socket: str = "/run/a.sock") -> None:
    line = ["qemu-nbd", "--fork", "--persistent", f"--socket={socket}", "--export-name=disk"]
    ran = shell.run(" ".join([*line, "--format=raw", *options, path]))
    assert ran.status == 0, ran.err


def connected(shell: Ssh, name: str = "disk"):
    forward = shell.forward("/run/a.sock")
    try:
        return NbdConnection.over_unix(forward.path, name, timeout=10), forward
    except BaseException:
        forward.close()
        raise


def test_another_host_key_is_an_integrity_error_and_another_key_is_denied(shell):
    other = asyncssh.generate_private_key("ssh-ed25519")
    public = other.export_public_key().decode()
    with pytest.raises(Integrity):
        Ssh(replace(shell._access, host_key=public), timeout=5)
    with pytest.raises(Denied):
        Ssh(replace(shell._access, private_key=other.export_private_key().decode()), timeout=5)
    with pytest.raises(Invalid):
        Ssh(replace(shell._access, private_key="no key"), timeout=5)
    with pytest.raises(Invalid):
        fingerprint("not a key")
    again = Ssh(replace(shell._access, host_key=fingerprint(shell._access.host_key)), timeout=5)
    assert again.run("pgrep -a -x qemu-nbd").status == 1
    again.close()
    again.close()
    assert shell._access.private_key not in repr(shell._access)


def test_an_unknown_command_is_127_and_a_volume_has_a_path(api, shell):
    assert shell.run("reboot").status == 127
    api.vm()
    assert shell.run(f"pvesm path {VOLID}").out == ZVOL + "\n"
    assert shell.run("pvesm path local-zfs:vm-1-disk-7").status == 255
    made = shell.run("pvesm alloc local-zfs 100 '' 4M")
    assert made.out == "successfully created 'local-zfs:vm-100-disk-1'\n"
    assert shell.run("pvesm free local-zfs:vm-100-disk-1").status == 0


def test_a_site_that_is_down_or_silent_is_unavailable(sim, shell):
    sim.faults.fail(Hang(), method="SSH")
    with pytest.raises(Unavailable):
        shell.run("qm unlock 100", timeout=0.2)
    sim.faults.go_down()
    with pytest.raises(Unavailable):
        shell.run("qm unlock 100", timeout=1)
    with pytest.raises(Unavailable):
        Ssh(shell._access, timeout=1)
    sim.faults.come_back()
    Ssh(shell._access, timeout=5).close()


@pytest.mark.parametrize("fault", [Reset(), LostAnswer()])
def test_a_lost_answer_is_unavailable_and_its_effect_may_have_happened(sim, api, shell, fault):
    api.vm()
    sim.faults.fail(fault, method="SSH")
    with pytest.raises(Unavailable):
        shell.run("qm set 100 --lock backup", timeout=2)
    locked = api.node.qemu(100).config.get().get("lock") == "backup"
    assert locked is isinstance(fault, LostAnswer)


def test_a_disk_is_read_with_its_holes_and_not_written_when_read_only(sim, api, shell):
    api.vm()
    write(sim, VOLID, 3 * MIB, b"x" * MIB)
    serve(shell, "--read-only")
    connection, forward = connected(shell)
    reader = NbdReader(connection)
    assert reader.size == 8 * MIB
    assert connection.read_only
    assert [(e.offset, e.length, e.kind) for e in reader.extents()] == [
        (0, 3 * MIB, ExtentKind.ZERO),
        (3 * MIB, MIB, ExtentKind.DATA),
        (4 * MIB, 4 * MIB, ExtentKind.ZERO),
    ]
    assert reader.read(0, 8 * MIB) == bytes_of(sim, VOLID)
    with pytest.raises(Denied):
        connection.write(0, b"no")
    with pytest.raises(Invalid):
        reader.read(8 * MIB - 1, 2)
    reader.close()
    forward.close()


def test_written_bytes_are_on_the_disk_and_zeros_too(sim, api, shell):
    api.vm()
    write(sim, VOLID, 0, b"o" * MIB)
    serve(shell)
    connection, forward = connected(shell)
    writer = NbdWriter(connection)
    writer.write(MIB - 3, b"abcdef")
    writer.write(2 * MIB, b"z" * (3 * MIB))
    writer.zero(4096, 8192)
    writer.finish()
    writer.close()
    forward.close()
    disk = bytes_of(sim, VOLID)
    assert disk[MIB - 3 : MIB + 3] == b"abcdef"
    assert disk[2 * MIB : 5 * MIB] == b"z" * (3 * MIB)
    assert disk[4096 : 4096 + 8192] == bytes(8192)
    assert disk[:4096] == b"o" * 4096


def pids(shell: Ssh) -> list[str]:
    return [line.split()[0] for line in shell.run("pgrep -a -x qemu-nbd").out.splitlines()]


def test_a_second_writer_is_let_in_on_raw_and_refused_on_qcow2_as_by_qemu(api, shell):
    api.vm()
    api.vm(101, scsi0="local:0.0078125,format=qcow2")
    second = "qemu-nbd --fork --socket=/run/b.sock --export-name=x"
    serve(shell)
    assert shell.run(f"{second} {ZVOL}").status == 0
    qcow2 = "/var/lib/vz/images/101/vm-101-disk-0.qcow2"
    serve(shell, "--discard=unmap", path=qcow2, socket="/run/c.sock")
    refusal = shell.run(f"{second.replace('b.sock', 'd.sock')} {qcow2}")
    assert 'Failed to get "write" lock' in refusal.err
    for pid in pids(shell):
        assert shell.run(f"kill {pid}").status == 0
        assert shell.run(f"kill {pid}").status == 1


def test_a_writer_and_a_running_vm_keep_each_other_out(api, shell):
    api.vm()
    serve(shell)
    assert "start failed" in api.done(api.node.qemu(100).status.start.post())
    assert shell.run(f"kill {pids(shell)[0]}").status == 0
    assert api.done(api.node.qemu(100).status.start.post()) == "OK"
    beside = shell.run(f"qemu-nbd --fork --socket=/run/b.sock --export-name=x {ZVOL}")
    assert 'Failed to get "write" lock' in beside.err
    serve(shell, "--read-only")


def test_a_killed_export_fails_its_readers_and_a_served_volume_is_not_destroyed(api, shell):
    api.vm()
    serve(shell, "--read-only")
    connection, forward = connected(shell)
    assert connection.read_each([(0, 512)])[0] == bytes(512)
    assert "busy" in api.done(api.node.qemu(100).delete())
    pid = shell.run("pgrep -a -x qemu-nbd").out.split()[0]
    assert shell.run(f"kill {pid}").status == 0
    with pytest.raises(Unavailable):
        connection.read_each([(0, 512)])[0]
    connection.close()
    forward.close()
    assert api.done(api.node.qemu(100).delete()) == "OK"


def test_a_snapshots_state_is_read_beside_the_changed_disk(sim, api, shell):
    api.vm()
    write(sim, VOLID, 0, b"then")
    assert api.done(api.node.qemu(100).snapshot.post(snapname="first")) == "OK"
    write(sim, VOLID, 0, b"now!")
    assert shell.run("zfs set snapdev=visible rpool/data/vm-100-disk-0").status == 0
    serve(shell, "--read-only", path=f"{ZVOL}@first")
    connection, forward = connected(shell)
    assert connection.read_each([(0, 4)])[0] == b"then"
    connection.close()
    forward.close()


def test_a_bit_can_be_flipped_on_its_way_out_and_in(sim, api, shell):
    api.vm()
    serve(shell)
    connection, forward = connected(shell)
    sim.faults.corrupt(Direction.IN, offset=10)
    connection.write(0, bytes(512))
    connection.flush()
    assert bytes_of(sim, VOLID)[:12] == bytes(10) + b"\1\0"
    sim.faults.corrupt(Direction.OUT, offset=11)
    assert connection.read_each([(0, 12)])[0] == bytes(10) + b"\1\1"
    assert connection.read_each([(0, 12)])[0] == bytes(10) + b"\1\0"
    connection.close()
    forward.close()


def test_an_export_of_another_name_is_not_found(api, shell):
    api.vm()
    serve(shell, "--read-only")
    with pytest.raises(Exception, match="no export of that name"):
        connected(shell, "other")
