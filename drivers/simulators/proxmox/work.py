"""How a call on a VM becomes a task under the VM's lock, and what forbids it."""

from collections.abc import Callable

from drivers.simulators.proxmox.node import Vm
from drivers.simulators.proxmox.params import Refused
from drivers.simulators.proxmox.routes import Ask
from drivers.simulators.proxmox.tasks import Worker


def unlocked(vm: Vm) -> None:
    """Refuse while the configuration carries a lock."""
    if lock := vm.config.get("lock"):
        raise Refused(500, f"VM is locked ({lock})")


def same_digest(vm: Vm, digest: str | None) -> None:
    if digest and digest != vm.digest:
        raise Refused(500, "checksum mismatch (file change by other user?)")


def spawn(ask: Ask, kind: str, work: Callable[[Worker, Vm], None], *, flock: bool = True) -> str:
    """Run `work` as a task that holds the VM's flock."""
    node, vmid = ask.node, ask.vmid
    node.vm(vmid)

    def held(worker: Worker) -> None:
        if not flock:
            work(worker, node.vm(vmid))
            return
        with node.locked(vmid):
            work(worker, node.vm(vmid))
        node.changed(vmid)

    return node.tasks.spawn(kind, str(vmid), ask.caller.name, held)
