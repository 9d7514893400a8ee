"""Backups of VMs into a datastore of their own, live or off, full ones or increments.

A full backup is an image of type BACKUP. In the mode INCREMENT it begins a chain: each later backup
is an increment in the same image, with a folder of its own.
"""

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from drivers.simulators.opennebula import bitmaps, vms
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.oned import Image, Oned, Refusal, User, Vm
from drivers.simulators.opennebula.qcow2 import CLUSTER, write
from drivers.simulators.opennebula.template import Malformed, parsed, vectors

_CONFIGURED = {"OS", "FEATURES", "INPUT", "GRAPHICS", "RAW", "CONTEXT", "CPU_MODEL"}


def backup(site: Oned, user: User, number: int, datastore: int, reset: bool = False) -> int:  # noqa: FBT001, FBT002  # the wire's shape
    call = "one.vm.backup"
    vm = vms.mine(site, user, call, number)
    if vm.chain >= 0 and not reset and vm.chain not in site.images:
        raise Refusal(one.NO_EXISTS, f"[{call}] Error getting image [{vm.chain}].", vm.chain)
    if datastore != one.BACKUP_DS:
        raise Refusal(one.NO_EXISTS, f"[{call}] Error getting datastore [{datastore}].", datastore)
    if (vm.state, vm.lcm) not in {(one.ACTIVE, one.RUNNING), (one.POWEROFF, 0)}:
        text = f"[{call}] Could not create a new backup for VM {number}, wrong state"
        raise Refusal(one.ACTION, f"{text} {vms.state_name(vm)}.", number)
    site.later(site.stale(), lambda: _begin(site, vm, reset=reset))
    return number


def _begin(site: Oned, vm: Vm, *, reset: bool) -> None:
    """All disks at one moment.

    A second full one within a second leaves nothing, and no word; an increment without its bitmap
    leaves an error.
    """
    live = (vm.state, vm.lcm) == (one.ACTIVE, one.RUNNING)
    if not live and vm.state != one.POWEROFF:
        return
    if reset:
        vm.chain = vm.last_increment = -1
    full, now = vm.chain < 0, int(time.time())
    lost = full and vm.backup_second == now  # its name would be taken
    if full:
        vm.backup_second = now
    vm.state, vm.lcm = one.ACTIVE, one.BACKUP if live else one.BACKUP_POWEROFF
    place = "" if lost else secrets.token_hex(3)
    if place:
        if live:
            site.guests.pause(str(vm.id))
        if not _copy(site, vm, place, number=vm.last_increment + 1):
            vm.user_template["ERROR"] = ["Error executing backup: checkpoint not found"]
            place = ""
        if live:
            site.guests.resume(str(vm.id))
    site.later(site.profile.step_seconds, lambda: _end(site, vm, place))


def _copy(site: Oned, vm: Vm, place: str, *, number: int) -> bool:
    """The disks into a folder, with their next bitmaps in the mode INCREMENT; whether it could."""
    disks = {
        disk["DISK_ID"]: site.file(vms.disk_path(vm, disk)).resolve()
        for disk in vectors(vm.template, "DISK")
    }
    before = f"one-{vm.id}-{number - 1}"
    dirty = {which: bitmaps.changed(file, before) for which, file in disks.items() if number}
    if None in dirty.values():
        return False
    folder = site.file(f"{one.DATASTORES}/{one.BACKUP_DS}/{vm.id}/{place}")
    folder.mkdir(parents=True)
    for which, file in disks.items():
        target, size = folder / f"disk.{which}.{number}", file.stat().st_size
        if number:
            # What the increment was pulled from is gone when it is there.
            socket = f"nbd+unix:///?socket={one.DATASTORES}/{one.SYSTEM_DS}/{vm.id}/backup.socket"
            changes = _clusters(file, sorted(dirty[which] or ()))
            write(target, size, changes, backing=socket)
        else:
            write(target, size, bitmaps.granules(file))
        if vm.backup_mode == one.INCREMENT:
            bitmaps.begin(file, f"one-{vm.id}-{number}")
    return True


def _clusters(file: Path, numbers: list[int]) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as reading:
        for number in numbers:
            yield number, os.pread(reading.fileno(), CLUSTER, number * CLUSTER)


def _end(site: Oned, vm: Vm, place: str) -> None:
    if vm.lcm == one.BACKUP:
        vm.lcm = one.RUNNING
    elif vm.lcm == one.BACKUP_POWEROFF:
        vm.state, vm.lcm = one.POWEROFF, 0
    if not place:
        return
    image = site.images.get(vm.chain)
    if image is None:
        image = _image(site, vm, place)
    if vm.backup_mode == one.INCREMENT:
        vm.chain, vm.last_increment = image.id, vm.last_increment + 1
        kind, parent = ("INCREMENT", vm.last_increment - 1) if vm.last_increment else ("FULL", -1)
        image.increments.append(
            {
                "DATE": str(int(time.time())),
                "ID": str(vm.last_increment),
                "PARENT_ID": str(parent),
                "SIZE": "1",
                "SOURCE": place,
                "TYPE": kind,
            }
        )


def _image(site: Oned, vm: Vm, place: str) -> Image:
    number = site.number("image")
    stamp = time.strftime("%d-%b %H.%M.%S", time.gmtime(vm.backup_second))
    image = site.images[number] = Image(
        id=number,
        uid=vm.uid,
        name=f"{vm.id} {stamp}",
        type=one.BACKUP_IMAGE,
        state=one.READY,
        size=sum(int(disk["SIZE"]) for disk in vectors(vm.template, "DISK")),
        source=place,
        format="raw",
        datastore=one.BACKUP_DS,
        vms=[vm.id],
        regtime=vm.backup_second,
    )
    vm.backups.append(number)
    return image


# -- the mode ----------------------------------------------------------------------------------


def update_config(site: Oned, user: User, number: int, text: str, mode: int = 0) -> int:
    """`onevm updateconf`: 0 replaces what it is for, 1 merges.

    A VM that cannot have increments is in the mode FULL afterwards, without a word.
    """
    call = "one.vm.updateconf"
    vm = vms.mine(site, user, call, number)
    if vm.state == one.ACTIVE and vm.lcm not in {one.RUNNING, 36}:  # BOOT_FAILURE
        text = f"[{call}] Unable to update configuration, wrong state {vms.state_name(vm)}."
        raise Refusal(one.ACTION, text, number)
    try:
        wish = parsed(text)
    except Malformed as e:
        raise Refusal(one.INTERNAL, f"[{call}] Cannot update template. {e}", number) from e
    configs = vectors(wish, "BACKUP_CONFIG")
    kept = {k: v for k, v in vm.template.items() if mode or k not in _CONFIGURED}
    vm.template = kept | {k: v for k, v in wish.items() if k in _CONFIGURED}
    if configs:
        asked = configs[0].get("MODE", "").upper()
        able = not vm.disk_snapshots and all(
            disk["FORMAT"].lower() == "qcow2" for disk in vectors(vm.template, "DISK")
        )
        new = one.INCREMENT if able and asked == one.INCREMENT else one.FULL
        if one.INCREMENT not in {new} & {vm.backup_mode}:
            vm.chain = vm.last_increment = -1
        vm.backup_mode = new
    return number
