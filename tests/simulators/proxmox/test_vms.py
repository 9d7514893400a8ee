"""VMs of a simulated Proxmox VE site: their configuration, tasks, locks and snapshots."""

import time
from dataclasses import replace

import pytest
from proxmoxer.core import ResourceException

from drivers.simulators.faults import STEADY
from drivers.simulators.proxmox import ProxmoxSim
from tests.simulators.proxmox.test_access import refused

MIB = 1 << 20


def bytes_of(sim: ProxmoxSim, volid: str) -> bytes:
    return sim.node.storages.volume(volid).file.read_bytes()


def write(sim: ProxmoxSim, volid: str, offset: int, data: bytes) -> None:
    with sim.node.storages.volume(volid).file.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_vm_is_made_under_its_id_once_and_nextid_reserves_nothing(sim, api):
    sim.node.tasks._step = 0.5  # long enough to look while it is being made
    assert api.proxmox.cluster.nextid.get() == "100"
    assert api.proxmox.cluster.nextid.get() == "100"
    upid = api.node.qemu.post(vmid=100, name="web-1", tags="B.x;a", description="note\n")
    refused(lambda: api.node.qemu.post(vmid=100), 500, "VM 100 already exists on node 'pve'")
    assert upid.startswith("UPID:pve:")
    assert api.node.qemu(100).config.get().get("tags") is None, "tags show when the task ends"
    assert api.done(upid) == "OK"
    config = api.node.qemu(100).config.get()
    assert (config["tags"], config["description"]) == ("a;b.x", "note")
    assert api.proxmox.cluster.nextid.get() == "101"


def test_a_creation_that_fails_leaves_nothing(sim, api):
    sim.faults.fill_disk()
    status = api.done(api.node.qemu.post(vmid=100, scsi0="local-zfs:1"))
    assert "out of space" in status
    assert api.node.qemu.get() == []
    assert api.node.storage("local-zfs").content.get() == []
    sim.faults.free_disk()
    sim.resize_storage("local-zfs", 10 * MIB)
    assert "out of space" in api.done(api.node.qemu.post(vmid=100, scsi0="local-zfs:1"))


def test_a_changed_digest_is_refused(api):
    api.vm()
    digest = api.node.qemu(100).config.get()["digest"]
    api.node.qemu(100).config.put(digest=digest, onboot=1)
    refused(
        lambda: api.node.qemu(100).config.put(digest=digest, onboot=0), 500, "checksum mismatch"
    )


def test_memory_of_a_running_vm_waits_for_its_next_start(api):
    vm = api.node.qemu(api.vm(memory="512"))
    assert api.done(vm.status.start.post()) == "OK"
    vm.config.put(memory="1024")
    assert vm.config.get()["memory"] == "1024"
    assert vm.config.get(current=1)["memory"] == "512"
    waiting = [item for item in vm.pending.get() if item["key"] == "memory"]
    assert waiting == [{"key": "memory", "value": "512", "pending": "1024"}]
    assert api.done(vm.status.stop.post()) == "OK"
    assert api.done(vm.status.start.post()) == "OK"
    assert vm.config.get(current=1)["memory"] == "1024"
    assert vm.status.current.get()["maxmem"] == 1024 * MIB


def test_a_detached_disk_is_unused_and_is_freed_when_that_goes(api):
    vm = api.node.qemu(api.vm())
    vm.config.put(delete="scsi0")
    assert vm.config.get()["unused0"] == "local-zfs:vm-100-disk-0"
    vm.config.put(virtio0="local-zfs:vm-100-disk-0")
    assert "unused0" not in vm.config.get()
    assert vm.config.get()["virtio0"] == "local-zfs:vm-100-disk-0,size=8M"
    vm.config.put(delete="virtio0")
    vm.config.put(delete="unused0")
    assert api.node.storage("local-zfs").content.get() == []


def test_power_goes_through_tasks_and_stopping_the_stopped_is_ok(api):
    vm = api.node.qemu(api.vm())
    assert api.done(vm.status.stop.post()) == "OK"
    assert api.done(vm.status.start.post()) == "OK"
    assert "already running" in api.done(vm.status.start.post())
    refused(vm.delete, 500, "is running - destroy failed")
    assert api.done(vm.status.shutdown.post(timeout=5)) == "OK"
    assert vm.status.current.get()["status"] == "stopped"
    assert api.done(vm.delete()) == "OK"
    refused(vm.config.get, 500, "does not exist")


def test_a_stop_overrules_a_shutdown_that_nobody_hears(sim, api):
    vm = api.node.qemu(api.vm())
    assert api.done(vm.status.start.post()) == "OK"
    sim.node.guests.pause("100")
    waiting = vm.status.shutdown.post(timeout=300)
    assert api.done(vm.status.stop.post(**{"overrule-shutdown": 1})) == "OK"
    assert api.done(waiting) == "interrupted by signal"
    assert vm.status.current.get()["status"] == "stopped"


def test_a_locked_vm_refuses_changes_at_once_and_fails_its_tasks(api, shell):
    vm = api.node.qemu(api.vm())
    assert shell.run("qm set 100 --lock migrate").status == 0
    refused(lambda: vm.config.put(onboot=1), 500, "VM is locked (migrate)")
    for call in (vm.status.start.post, vm.delete, lambda: vm.snapshot.post(snapname="ab")):
        assert api.done(call()) == "VM is locked (migrate)"
    assert vm.status.current.get()["lock"] == "migrate"
    assert shell.run("qm unlock 100").status == 0
    assert api.done(vm.status.start.post()) == "OK"


def test_a_held_lock_file_times_out(sim, api):
    vm = api.node.qemu(api.vm())
    with sim.held(100):
        refused(lambda: vm.config.put(onboot=1), 500, "can't lock file")
        assert "got timeout" in api.done(vm.status.start.post())


def test_a_snapshot_keeps_the_bytes_and_rollback_brings_them_back(sim, api):
    vm, volid = api.node.qemu(api.vm()), "local-zfs:vm-100-disk-0"
    write(sim, volid, MIB, b"before")
    wrong = refused(lambda: vm.snapshot.post(snapname="a"), 400, "verification failed")
    assert "snapname" in wrong.errors
    assert api.done(vm.snapshot.post(snapname="first", description="d")) == "OK"
    assert "already used" in api.done(vm.snapshot.post(snapname="first"))
    write(sim, volid, MIB, b"after!")
    vm.snapshot("first").config.put(description="other")
    first = vm.snapshot.get()[0]
    assert (first["name"], first["description"]) == ("first", "other")
    assert api.done(vm.snapshot("first").rollback.post()) == "OK"
    assert bytes_of(sim, volid)[MIB : MIB + 6] == b"before"
    assert api.done(vm.snapshot("first").delete()) == "OK"
    assert [s["name"] for s in vm.snapshot.get()] == ["current"]


def test_a_raw_disk_on_a_directory_has_no_snapshots_and_a_qcow2_has(api):
    raw = api.node.qemu(api.vm(100, scsi0="local:0.0078125,format=raw"))
    assert "not available" in api.done(raw.snapshot.post(snapname="ab"))
    qcow2 = api.node.qemu(api.vm(101, scsi0="local:0.0078125,format=qcow2"))
    assert api.done(qcow2.snapshot.post(snapname="ab")) == "OK"


def test_resize_grows_in_a_task_and_shrinking_fails_inside_it(api):
    vm = api.node.qemu(api.vm())
    assert api.done(vm.resize.put(disk="scsi0", size="+8M")) == "OK"
    assert vm.config.get()["scsi0"].endswith("size=16M")
    assert "unable to shrink" in api.done(vm.resize.put(disk="scsi0", size="1M"))


def test_cluster_resources_learn_late_what_the_node_shows_at_once(sim, api):
    sim.faults.profile = replace(STEADY, staleness=(0.8, 0.8))
    upid = api.node.qemu.post(vmid=100, name="web-1")
    assert api.done(upid) == "OK"
    assert [vm["name"] for vm in api.node.qemu.get()] == ["web-1"]
    lagged = api.proxmox.cluster.resources.get(type="vm")
    assert lagged == []
    deadline = time.monotonic() + 10
    while not (shown := api.proxmox.cluster.resources.get(type="vm")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert shown[0]["name"] == "web-1"


def test_task_logs_come_in_pages_and_a_task_can_be_aborted(sim, api):
    def work(worker):
        for line in range(120):
            worker.log(f"line {line}")
        worker.warn("something")
        worker.wait(30)

    upid = sim.node.tasks.spawn("test", "1", "fedctl@pve!fedctl", work)
    deadline = time.monotonic() + 10
    while len(api.node.tasks(upid).log.get(start=100, limit=50)) < 21:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    page = api.node.tasks(upid).log.get()
    assert (len(page), page[0]) == (50, {"n": 1, "t": "line 0"})
    assert [t["upid"] for t in api.node.tasks.get(source="active")] == [upid]
    api.node.tasks(upid).delete()
    assert api.done(upid) == "interrupted by signal"
    warned = sim.node.tasks.spawn("test", "2", "fedctl@pve!fedctl", lambda w: w.warn("careful"))
    assert api.done(warned) == "WARNINGS: 1"


def test_cloud_init_and_passwords_read_back_as_the_real_thing_shows_them(api):
    vm = api.node.qemu(api.vm(ide2="local-zfs:cloudinit", cipassword="geheim", ciuser="admin"))
    config = vm.config.get()
    assert config["cipassword"] == "**********"
    assert config["ide2"] == "local-zfs:vm-100-cloudinit,media=cdrom"
    assert api.done(vm.delete()) == "OK"
    assert api.node.storage("local-zfs").content.get() == []


def test_a_restarted_site_goes_on_where_it_was(sim, api):
    vm = api.node.qemu(api.vm(tags="mine"))
    write(sim, "local-zfs:vm-100-disk-0", 0, b"kept")
    upid = vm.status.start.post()
    assert api.done(upid) == "OK"
    url, secret = sim.url, sim.credentials.token_secret
    sim.stop()
    again = ProxmoxSim(sim.folder, profile=sim.profile, seed=2)
    assert again.credentials.token_secret == secret
    with again:
        assert again.url == url
        assert vm.config.get()["tags"] == "mine"
        assert vm.status.current.get()["status"] == "running"
        assert api.done(upid) == "OK", "tasks are remembered"
        assert api.done(vm.status.stop.post()) == "OK"
        assert bytes_of(again, "local-zfs:vm-100-disk-0").startswith(b"kept")


def test_the_agent_answers_only_where_it_is_configured_and_up(api):
    plain, vm = api.node.qemu(api.vm(100)), api.node.qemu(api.vm(101, agent="enabled=1"))
    refused(plain.agent("ping").post, 500, "No QEMU guest agent configured")
    refused(vm.agent("ping").post, 500, "is not running")
    assert api.done(vm.status.start.post()) == "OK"
    deadline = time.monotonic() + 10
    while True:
        try:
            assert vm.agent("ping").post() == {"result": {}}
            break
        except ResourceException:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize("nic", ["bridge=vmbr0", "virtio=zz", "virtio,bridge=vmbr0,link_down=yes"])
def test_a_malformed_nic_is_refused(api, nic):
    wrong = refused(lambda: api.node.qemu.post(vmid=100, net0=nic), 400, "verification failed")
    assert "net0" in wrong.errors
