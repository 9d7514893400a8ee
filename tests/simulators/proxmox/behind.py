"""What somebody else does at a simulated site, beside every driver."""

from drivers.simulators.proxmox import ProxmoxSim, config
from drivers.simulators.proxmox.access import Caller
from drivers.simulators.proxmox.node import Vm


def appear(sim: ProxmoxSim, name: str, disk: bytes, **more: str) -> int:
    """A running VM with tags and notes of its owner's, made by root on the node; its vmid."""
    node = sim.node
    with node.lock:
        vmid = max(node.vms, default=99) + 1
        volume = node.storages.allocate("local-zfs", vmid, -(-len(disk) // (1 << 20)) * (1 << 20))
        with volume.file.open("r+b") as file:
            file.write(disk)
        vm = Vm(vmid=vmid, config={})
        wish = {
            "name": name,
            "memory": "512",
            "cores": "2",
            "agent": "1",
            "onboot": "1",
            "tags": "prod;web",
            "description": "the shop's\nold server",
            "boot": "order=scsi0",
            "scsi0": f"{volume.volid},discard=on",
            "net0": "e1000=BC:24:11:00:00:07,bridge=vmbr0",
        }
        config.apply(node, vm, wish | more, job=config.Job(caller=Caller(user="root@pam")))
        node.vms[vmid] = vm
        node.power_on(vm)
    node.changed(vmid)
    return vmid
