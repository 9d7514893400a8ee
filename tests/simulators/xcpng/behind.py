"""What somebody else does at a simulated pool, beside every driver."""

from drivers.simulators.xcpng import XcpngSim, disks, vms
from drivers.xcpng import mapping

SIZE = str(512 << 20)


def appear(sim: XcpngSim, name: str, disk: bytes) -> str:
    """A running VM with keys of its owner's in its other_config; its reference."""
    pool = sim.pool
    sr = pool.where("SR", content_type="user")[0]
    network = next(n for n in pool.where("network", bridge="xenbr0"))
    vdi = disks.create(
        pool, "", mapping.vdi_record(f"{name} root", "", len(disk), sr, {"team": "a"})
    )
    with pool.file(vdi).open("r+b") as file:
        file.write(disk)
    vm = vms.create(pool, "", _vm(name))
    vms.create_vbd(pool, "", mapping.vbd_record(vm, vdi, 0))
    vms.create_vif(
        pool, "", mapping.vif_record(vm, network, 0, mac="52:54:00:00:00:07", isolated=False)
    )
    vms.start(pool, "", vm, False, False)  # noqa: FBT003  # the wire's shape
    return vm


def vanish(sim: XcpngSim, vm: str) -> None:
    pool = sim.pool
    if vm not in pool.tables["VM"]:
        return
    vdis = [pool.row("VBD", vbd)["VDI"] for vbd in pool.where("VBD", VM=vm)]
    if pool.row("VM", vm)["power_state"] != "Halted":
        vms.hard_shutdown(pool, "", vm)
    vms.destroy(pool, "", vm)
    for vdi in vdis:
        disks.destroy(pool, "", vdi)


def _vm(name: str) -> dict[str, object]:
    empty = dict.fromkeys(
        ("name_description", "PCI_bus", "recommendations", "ha_restart_priority"), ""
    )
    boot = ("bootloader", "kernel", "ramdisk", "args", "bootloader_args", "legacy_args")
    return {
        **empty,
        **{f"PV_{each}": "" for each in boot},
        **{f"memory_{w}_{m}": SIZE for w in ("static", "dynamic") for m in ("max", "min")},
        "name_label": name,
        "user_version": "1",
        "is_a_template": False,
        "affinity": "OpaqueRef:NULL",
        "VCPUs_params": {},
        "VCPUs_max": "2",
        "VCPUs_at_startup": "2",
        "actions_after_shutdown": "destroy",
        "actions_after_reboot": "restart",
        "actions_after_crash": "restart",
        "HVM_boot_policy": "BIOS order",
        "HVM_boot_params": {"order": "cd"},
        "platform": {"nx": "true"},
        "other_config": {"auto_poweron": "true", "team": "shop"},
    }
