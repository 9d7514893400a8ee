"""What somebody else does at a simulated site, beside every driver."""

from contextlib import suppress
from uuid import uuid4

import pyone

from drivers.simulators.opennebula import OpenNebulaSim
from tests.simulators.opennebula.conftest import Api, eventually

RUNNING = (3, 3)


def appear(sim: OpenNebulaSim, name: str, disk: bytes) -> int:
    """A running VM on a persistent image, with attributes of its owner's; its number."""
    api = Api(sim)
    image = api.volume(-(-len(disk) // (1 << 20)), f"{name} root {uuid4().hex}")
    with sim.oned.file(sim.oned.images[image].source).open("r+b") as file:
        file.write(disk)
    api.one.image.update(image, "TEAM=shop", 1)
    vm = api.one.vm.allocate(
        {
            "TEMPLATE": {
                "NAME": name,
                "CPU": "1",
                "VCPU": "2",
                "MEMORY": "256",
                "DISK": {"IMAGE_ID": str(image), "DEV_PREFIX": "vd"},
                "NIC": {"NETWORK_ID": str(min(sim.oned.networks))},
                "TEAM": "shop & co <b>",
                "CONTACT": {"NAME": "Ada", "ROOM": "7"},
            }
        },
        False,  # noqa: FBT003  # the wire's shape
    )
    eventually(lambda: api.state(vm) == RUNNING)
    return int(vm)


def vanish(sim: OpenNebulaSim, vm: int) -> None:
    api = Api(sim)
    images = [int(each) for each in images_of(sim, vm)]
    with suppress(pyone.OneException):
        api.one.vm.action("terminate-hard", vm)
    eventually(lambda: vm not in sim.oned.vms or api.state(vm)[0] == 6)
    for image in images:
        eventually(lambda image=image: not (i := sim.oned.images.get(image)) or not i.vms)
        with suppress(pyone.OneException):
            api.one.image.delete(image)


def images_of(sim: OpenNebulaSim, vm: int) -> list[int]:
    disks = sim.oned.vms[vm].template["DISK"]
    return [int(disk["IMAGE_ID"]) for disk in disks if int(disk["IMAGE_ID"]) in sim.oned.images]
