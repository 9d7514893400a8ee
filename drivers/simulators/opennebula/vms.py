"""VMs of a simulated oned: calls that are accepted at once and show a little later."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from drivers.simulators.guest import Disk, Nic
from drivers.simulators.opennebula import bitmaps, networks, views
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.images import merged, paged, visible
from drivers.simulators.opennebula.oned import Oned, Refusal, User, Vm
from drivers.simulators.opennebula.template import Malformed, parsed, single, vectors
from drivers.simulators.sparse import copy_sparse

STATES = {
    one.PENDING: "PENDING", one.HOLD: "HOLD", one.ACTIVE: "ACTIVE", one.STOPPED: "STOPPED",
    one.SUSPENDED: "SUSPENDED", one.DONE: "DONE", one.POWEROFF: "POWEROFF",
    one.UNDEPLOYED: "UNDEPLOYED",
}  # fmt: skip
_LCM = {
    1: "PROLOG", 2: "BOOT", 3: "RUNNING", 11: "EPILOG", 12: "SHUTDOWN", 17: "HOTPLUG",
    18: "SHUTDOWN_POWEROFF", 20: "BOOT_POWEROFF", 25: "HOTPLUG_NIC", 36: "BOOT_FAILURE",
    65: "HOTPLUG_NIC_POWEROFF", 69: "BACKUP", 70: "BACKUP_POWEROFF",
}  # fmt: skip
_TEMPLATE = {
    "CPU", "VCPU", "MEMORY", "DISK", "NIC", "CONTEXT", "OS", "FEATURES", "GRAPHICS", "CPU_MODEL",
    "RAW", "INPUT", "TOPOLOGY", "HYPERVISOR", "SCHED_ACTION",
}  # fmt: skip
_FORBIDDEN = re.compile(r"[/&\"]")


def found(site: Oned, call: str, number: int) -> Vm:
    if number not in site.vms:
        text = f"[{call}] Error getting virtual machine [{number}]."
        raise Refusal(one.NO_EXISTS, text, number)
    return site.vms[number]


def mine(site: Oned, user: User, call: str, number: int, *, locked: bool = True) -> Vm:
    """The VM for an effect: refused to strangers, and while it is locked."""
    vm = found(site, call, number)
    if user.id not in {vm.uid, 0}:
        text = f"[{call}] User [{user.id}] : Not authorized to perform MANAGE VM [{number}]."
        raise Refusal(one.AUTHORIZATION, text, number)
    if locked and vm.lock:
        text = f"[{call}] User [{user.id}] : VM is locked. [{number}]."
        raise Refusal(one.AUTHORIZATION, text, number)
    return vm


def state_name(vm: Vm) -> str:
    return _LCM.get(vm.lcm, str(vm.lcm)) if vm.state == one.ACTIVE else STATES[vm.state]


# -- looking -----------------------------------------------------------------------------------


def _rows(site: Oned, user: User, asked: tuple[int, ...]) -> list[Vm]:
    flag, start, end, state = asked
    rows = [vm for vm in site.vms.values() if visible(user, vm.uid, flag)]
    if state == -1:
        rows = [vm for vm in rows if vm.state != one.DONE]
    elif state >= 0:
        rows = [vm for vm in rows if vm.state == state]
    return paged(rows, start, end)


def pool(site: Oned, user: User, *asked: int) -> str:
    rows = _rows(site, user, asked)
    return f"<VM_POOL>{''.join(views.vm(site, vm, extended=False) for vm in rows)}</VM_POOL>"


def extended(site: Oned, user: User, *asked: int) -> str:
    rows = _rows(site, user, asked)
    return f"<VM_POOL>{''.join(views.vm(site, vm) for vm in rows)}</VM_POOL>"


def info(site: Oned, user: User, number: int, _decrypt: bool = False) -> str:  # noqa: FBT001, FBT002  # the wire's shape
    vm = found(site, "one.vm.info", number)
    if user.id not in {vm.uid, 0}:
        text = f"[one.vm.info] User [{user.id}] : Not authorized to perform USE VM [{number}]."
        raise Refusal(one.AUTHORIZATION, text, number)
    return views.vm(site, vm)


# -- making ------------------------------------------------------------------------------------


def allocate(site: Oned, user: User, text: str, hold: bool = False) -> int:  # noqa: FBT001, FBT002  # the wire's shape
    call = "one.vm.allocate"
    try:
        template = parsed(text)
    except Malformed as e:
        message = f"[{call}] Error allocating a new virtual machine. {e}"
        raise Refusal(one.INTERNAL, message) from e
    name = single(template, "NAME")
    if len(name) > 128 or _FORBIDDEN.search(name):
        raise Refusal(one.INTERNAL, f"[{call}] Invalid NAME.")
    _quota(site, call, user, single(template, "CPU", "0"), single(template, "MEMORY", "0"))
    vm = Vm(
        id=site.numbers["vm"],
        uid=user.id,
        name=name or f"one-{site.numbers['vm']}",
        state=one.HOLD if hold else one.PENDING,
        template={key: values for key, values in template.items() if key in _TEMPLATE},
        user_template={
            key: values for key, values in template.items() if key not in {*_TEMPLATE, "NAME"}
        },
        stime=int(time.time()),
    )
    disks = [dict(disk) for disk in vectors(template, "DISK")]
    for number, disk in enumerate(disks):
        _acquirable(site, call, disk)
        disk["DISK_ID"] = str(number)
    taken: list[dict[str, str]] = []
    try:
        for number, wish in enumerate(vectors(template, "NIC")):
            nic = networks.lease(site, call, vm, {**wish, "NIC_ID": str(number)})
            taken.append(nic)
    except Refusal:
        for nic in taken:
            networks.release(site, nic)
        raise
    site.numbers["vm"] += 1
    for disk in disks:
        _acquire(site, vm, disk)
    vm.template["DISK"], vm.template["NIC"] = [*disks], [*taken]
    vm.template["VMID"] = [str(vm.id)]
    site.vms[vm.id] = vm
    if not hold:
        site.later(site.profile.step_seconds, lambda: _schedule(site, vm))
    return vm.id


def _quota(site: Oned, call: str, user: User, cpu: str, memory: str) -> None:
    used = views.vm_use(site, user.id)
    for key, more in (("VMS", 1), ("CPU", int(float(cpu))), ("MEMORY", int(memory))):
        limit = user.vm_quota.get(key, -1)
        if limit >= 0 and used[key] + more > limit:
            text = f"[{call}] user [{user.id}] limit of {limit} reached for {key} quota in VM."
            raise Refusal(one.AUTHORIZATION, text)


def _acquirable(site: Oned, call: str, disk: dict[str, str]) -> None:
    number = disk.get("IMAGE_ID", "")
    image = site.images.get(int(number)) if number.isdecimal() else None
    problem = ""
    if image is None:
        problem = f"Image with ID: {number} does not exist"
    elif image.state == one.USED_PERS:
        problem = f"Cannot acquire image {number}, it is persistent and already in use"
    elif image.state not in {one.READY, one.USED}:
        problem = f"Cannot acquire image {number}, it is in state: {image.state}"
    if problem:
        text = f"[{call}] Error allocating a new virtual machine. {problem}"
        raise Refusal(one.INTERNAL, text)


def _acquire(site: Oned, vm: Vm, disk: dict[str, str]) -> None:
    image = site.images[int(disk["IMAGE_ID"])]
    image.vms.append(vm.id)
    image.state = one.USED_PERS if image.persistent else one.USED
    disk |= {"SOURCE": image.source, "SIZE": str(image.size), "FORMAT": image.format}
    disk |= {"IMAGE": image.name, "PERSISTENT": "YES" if image.persistent else "NO"}
    disk |= {"CLONE": "NO" if image.persistent else "YES", "DATASTORE_ID": str(image.datastore)}


# -- life --------------------------------------------------------------------------------------


def _show(vm: Vm, state: int, lcm: int = 0) -> None:
    vm.state, vm.lcm = state, lcm


def _steps(site: Oned, *acts: Callable[[], None]) -> None:
    """One after the other: the first when the action begins to show, the rest a step apart."""
    delay = site.stale()
    for act in acts:
        site.later(delay, act)
        delay += site.profile.step_seconds


def _schedule(site: Oned, vm: Vm) -> None:
    """The scheduler finds a host, unless the VM asks for one that is not there."""
    if vm.state != one.PENDING:
        return
    if single(vm.user_template, "SCHED_REQUIREMENTS"):
        vm.user_template["SCHED_MESSAGE"] = [
            "Cannot dispatch VM: No host meets capacity and SCHED_REQUIREMENTS"
        ]
        return
    _show(vm, one.ACTIVE, 1)
    vm.deployed = True
    step = site.profile.step_seconds
    site.later(step, lambda: _prolog(site, vm))
    site.later(2 * step, lambda: _boot(site, vm))


def disk_path(vm: Vm, disk: dict[str, str]) -> str:
    return f"{one.DATASTORES}/{one.SYSTEM_DS}/{vm.id}/disk.{disk['DISK_ID']}"


def _prolog(site: Oned, vm: Vm) -> None:
    """The transfer manager: `shared` links persistent images, `local` takes them to the host."""
    if vm.state != one.ACTIVE:
        return
    for disk in vectors(vm.template, "DISK"):
        source, target = site.file(disk["SOURCE"]), site.file(disk_path(vm, disk))
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.exists():
            continue
        if disk["PERSISTENT"] == "YES" and site.tm == "shared":
            target.symlink_to(source)
        else:
            copy_sparse(source, target)
    vm.lcm = 2


def _boot(site: Oned, vm: Vm) -> None:
    """QEMU starts; it locks its images, so that a writer beside it makes the start fail."""
    if vm.state != one.ACTIVE or vm.lcm not in {2, 20}:
        return
    files = [site.file(disk_path(vm, d)).resolve() for d in vectors(vm.template, "DISK")]
    if site.writers() & set(files):
        vm.lcm = 36
        vm.user_template["ERROR"] = ['Error deploying virtual machine: Failed to get "write" lock']
        return
    vm.lcm = one.RUNNING
    start(site, vm)


def start(site: Oned, vm: Vm) -> None:
    disks = vectors(vm.template, "DISK")
    file = site.file(disk_path(vm, disks[0])) if disks else None
    site.guests.start(
        str(vm.id), name=vm.name, disk=_disk(file.resolve()) if file else None, nics=_nics(vm)
    )


def _nics(vm: Vm) -> tuple[Nic, ...]:
    return tuple(
        Nic(mac=nic.get("MAC", ""), address=nic.get("IP")) for nic in vectors(vm.template, "NIC")
    )


def _disk(file: Path) -> Disk:
    def read(offset: int, length: int) -> bytes:
        with file.open("rb") as reading:
            return os.pread(reading.fileno(), length, offset)

    def write(offset: int, data: bytes) -> None:
        with file.open("r+b") as writing:
            os.pwrite(writing.fileno(), data, offset)

    def flush() -> None:
        with file.open("r+b") as writing:
            os.fsync(writing.fileno())

    return Disk(read=read, write=write, flush=flush)


def _stopped(site: Oned, vm: Vm, state: int) -> None:
    if vm.state == one.ACTIVE:
        site.guests.stop(str(vm.id))
        _show(vm, state)


def _ended(site: Oned, vm: Vm) -> None:
    """DONE: images that were taken to the host go back, leases and images are free."""
    if vm.state == one.DONE:
        return
    site.guests.stop(str(vm.id))
    _show(vm, one.DONE)
    vm.etime = int(time.time())
    for disk in vectors(vm.template, "DISK"):
        image, file = site.images.get(int(disk["IMAGE_ID"])), site.file(disk_path(vm, disk))
        if image is not None:
            if file.exists() and not file.is_symlink() and disk["PERSISTENT"] == "YES":
                file.replace(site.file(image.source))
                bitmaps.move(file, site.file(image.source))
            image.vms = [number for number in image.vms if number != vm.id]
            if not image.vms:
                image.state = one.READY
        file.unlink(missing_ok=True)
    for nic in vectors(vm.template, "NIC"):
        networks.release(site, nic)


# -- actions -----------------------------------------------------------------------------------


def action(site: Oned, user: User, name: str, number: int) -> int:
    call = "one.vm.action"
    vm = mine(site, user, call, number)
    acts: dict[str, tuple[set[int], Callable[[], None]]] = {
        "hold": ({one.PENDING}, lambda: _steps(site, lambda: _hold(vm))),
        "release": ({one.HOLD}, lambda: _steps(site, lambda: _release(site, vm))),
        "poweroff": ({one.ACTIVE}, lambda: _steps(site, lambda: _power_off(site, vm))),
        "poweroff-hard": ({one.ACTIVE}, lambda: _hard(site, vm, 18, one.POWEROFF)),
        "undeploy-hard": ({one.ACTIVE, one.POWEROFF}, lambda: _hard(site, vm, 30, one.UNDEPLOYED)),
        "resume": (
            {one.POWEROFF, one.UNDEPLOYED, one.SUSPENDED, one.STOPPED},
            lambda: _steps(site, lambda: _resume(site, vm), lambda: _boot(site, vm)),
        ),
        "terminate": (set(STATES), lambda: _terminate(site, vm)),
        "terminate-hard": (set(STATES), lambda: _terminate(site, vm)),
    }
    if name not in acts:
        raise Refusal(one.API, f"[{call}] Wrong action name", number)
    states, act = acts[name]
    running = vm.state != one.ACTIVE or vm.lcm == one.RUNNING or name.startswith("terminate")
    if vm.state not in states or not running:
        raise Refusal(
            one.ACTION,
            f'[{call}] Error performing action "{name}": This action is not available for state'
            f" {state_name(vm)}",
            number,
        )
    act()
    return number


def _hold(vm: Vm) -> None:
    if vm.state == one.PENDING:
        _show(vm, one.HOLD)


def _release(site: Oned, vm: Vm) -> None:
    if vm.state == one.HOLD:
        _show(vm, one.PENDING)
        site.later(site.profile.step_seconds, lambda: _schedule(site, vm))


def _resume(site: Oned, vm: Vm) -> None:
    if vm.state in {one.POWEROFF, one.SUSPENDED}:
        _show(vm, one.ACTIVE, 20)
    elif vm.state in {one.UNDEPLOYED, one.STOPPED}:
        _show(vm, one.PENDING)
        site.later(site.profile.step_seconds, lambda: _schedule(site, vm))


def _power_off(site: Oned, vm: Vm) -> None:
    """Asked of the guest; one that does not hear it is back at RUNNING after a while."""
    if vm.state != one.ACTIVE or vm.lcm != one.RUNNING:
        return
    vm.lcm = 18

    def down() -> None:
        with site.changing():
            _stopped(site, vm, one.POWEROFF)

    if not site.guests.shutdown(str(vm.id), on_down=down):
        site.later(site.profile.lock_wait_seconds, lambda: _ignored(vm))


def _ignored(vm: Vm) -> None:
    if vm.state == one.ACTIVE and vm.lcm == 18:
        vm.lcm = one.RUNNING


def _hard(site: Oned, vm: Vm, lcm: int, state: int) -> None:
    def begin() -> None:
        if vm.state == one.ACTIVE:
            vm.lcm = lcm
        elif vm.state == one.POWEROFF:
            _show(vm, one.ACTIVE, lcm)

    _steps(site, begin, lambda: _stopped(site, vm, state))


def _terminate(site: Oned, vm: Vm) -> None:
    def begin() -> None:
        if vm.deployed and vm.state != one.DONE:
            site.guests.stop(str(vm.id))
            _show(vm, one.ACTIVE, 11)

    _steps(site, begin, lambda: _ended(site, vm))


# -- changing ----------------------------------------------------------------------------------


def update(site: Oned, user: User, number: int, text: str, mode: int) -> int:
    call = "one.vm.update"
    vm = mine(site, user, call, number)
    vm.user_template = merged(call, vm.user_template, text, mode, number)
    return number


def lock(site: Oned, user: User, number: int, level: int, _test: bool = False) -> int:  # noqa: FBT001, FBT002  # the wire's shape
    call = "one.vm.lock"
    vm = mine(site, user, call, number, locked=False)
    if level not in {1, 2, 3, 4}:
        raise Refusal(one.ACTION, f"[{call}] Wrong lock level specified", number)
    if vm.lock and user.id not in {vm.lock_owner, 0}:
        raise Refusal(one.ACTION, f"[{call}] Error trying to lock the resource.", number)
    vm.lock, vm.lock_owner = (1 if level == 4 else level), user.id
    return number


def unlock(site: Oned, user: User, number: int) -> int:
    call = "one.vm.unlock"
    vm = mine(site, user, call, number, locked=False)
    if vm.lock and user.id not in {vm.lock_owner, 0}:
        text = f"[{call}] Cannot unlock: Lock is owned by another user"
        raise Refusal(one.ACTION, text, number)
    vm.lock = 0
    return number


def attach_nic(site: Oned, user: User, number: int, text: str) -> int:
    call = "one.vm.attachnic"
    vm = mine(site, user, call, number)
    _pluggable(call, "add a new NIC to", vm)
    wish = vectors(parsed(text), "NIC")[0]
    ids = [int(nic["NIC_ID"]) for nic in vectors(vm.template, "NIC")]
    nic = networks.lease(site, call, vm, {**wish, "NIC_ID": str(max(ids, default=-1) + 1)})
    _plugged(site, vm, lambda: vm.template["NIC"].append(nic))
    return number


def detach_nic(site: Oned, user: User, number: int, nic_id: int) -> int:
    call = "one.vm.detachnic"
    vm = mine(site, user, call, number)
    _pluggable(call, "detach NIC from", vm)
    held = [nic for nic in vectors(vm.template, "NIC") if nic["NIC_ID"] == str(nic_id)]
    if not held:
        text = f"[{call}] Could not detach NIC with NIC_ID {nic_id}, it does not exist."
        raise Refusal(one.ACTION, text, number)

    def unplug() -> None:
        if held[0] in vm.template["NIC"]:
            vm.template["NIC"].remove(held[0])
            networks.release(site, held[0])

    _plugged(site, vm, unplug)
    return number


def _pluggable(call: str, what: str, vm: Vm) -> None:
    if (vm.state, vm.lcm) not in {(one.ACTIVE, one.RUNNING), (one.POWEROFF, 0)}:
        text = f"[{call}] Could not {what} VM {vm.id}, wrong state {state_name(vm)}."
        raise Refusal(one.ACTION, text, vm.id)


def _plugged(site: Oned, vm: Vm, change: Callable[[], None]) -> None:
    """A hotplug, or one of a VM that is off: its own state at once, the change a step later."""
    off = vm.state == one.POWEROFF
    _show(vm, one.ACTIVE, 65 if off else 25)

    def done() -> None:
        if vm.state != one.ACTIVE or vm.lcm not in {25, 65}:
            return
        change()
        if off:
            _show(vm, one.POWEROFF)
        else:
            vm.lcm = one.RUNNING
            site.guests.set_nics(str(vm.id), _nics(vm))

    site.later(site.profile.step_seconds, done)
