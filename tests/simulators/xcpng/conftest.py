"""A simulated XCP-ng pool, and two clients that are none of ours: XenAPI and http.client."""

import http.client
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import XenAPI

from drivers.simulators.faults import STEADY
from drivers.simulators.xcpng import XcpngSim
from drivers.simulators.xcpng.pool import MIB

VM = {
    "name_label": "vm",
    "name_description": "",
    "user_version": "1",
    "is_a_template": False,
    "affinity": "OpaqueRef:NULL",
    "memory_static_max": str(256 * MIB),
    "memory_dynamic_max": str(256 * MIB),
    "memory_dynamic_min": str(256 * MIB),
    "memory_static_min": str(256 * MIB),
    "VCPUs_params": {},
    "VCPUs_max": "1",
    "VCPUs_at_startup": "1",
    "actions_after_shutdown": "destroy",
    "actions_after_reboot": "restart",
    "actions_after_crash": "restart",
    "PV_bootloader": "",
    "PV_kernel": "",
    "PV_ramdisk": "",
    "PV_args": "",
    "PV_bootloader_args": "",
    "PV_legacy_args": "",
    "HVM_boot_policy": "BIOS order",
    "HVM_boot_params": {"order": "c"},
    "platform": {},
    "PCI_bus": "",
    "other_config": {"who": "me"},
    "recommendations": "",
    "ha_restart_priority": "",
}


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[XcpngSim]:
    with XcpngSim(tmp_path / "xcp", profile=STEADY, seed=1, member=True) as sim:
        yield sim


class Api:
    """XenAPI, unmodified, and raw HTTP beside it."""

    def __init__(self, sim: XcpngSim) -> None:
        self.sim = sim
        self.session = XenAPI.Session(sim.url, ignore_ssl=True)
        self.session.login_with_password(sim.credentials.username, sim.credentials.password)
        self.xen = self.session.xenapi

    def vdi(self, size: int = 4 * MIB, **more) -> str:
        wish = {
            "name_label": "disk",
            "SR": self.xen.SR.get_all()[0],
            "virtual_size": str(size),
            "type": "user",
            "sharable": False,
            "read_only": False,
            "other_config": {},
            **more,
        }
        return self.xen.VDI.create(wish)

    def vm(self, *vdis: str, **more) -> str:
        vm = self.xen.VM.create(VM | more)
        for place, vdi in enumerate(vdis):
            self.xen.VBD.create(
                {
                    "VM": vm,
                    "VDI": vdi,
                    "userdevice": str(place),
                    "bootable": True,
                    "mode": "RW",
                    "type": "Disk",
                    "empty": False,
                    "other_config": {},
                }
            )
        return vm

    def start(self, vm: str, *, paused: bool = False) -> None:
        self.xen.VM.start(vm, paused, False)  # noqa: FBT003  # the wire's shape

    def ended(self, task: str) -> str:
        """How a task ended."""
        eventually(lambda: self.xen.task.get_status(task) != "pending")
        return self.xen.task.get_status(task)

    def http(
        self, method: str, path: str, query: dict[str, str], body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        where = urlsplit(self.sim.url)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=10, context=context
        )
        asked = f"{path}?{urlencode({'session_id': self.session._session, **query})}"
        try:
            try:
                connection.request(method, asked, body or None, headers)
            except OSError:  # the server hung up before it had all: a task tells why
                return 0, {}, b""
            with connection.getresponse() as answer:
                try:
                    data = answer.read()
                except http.client.IncompleteRead as e:
                    data = e.partial
                return answer.status, dict(answer.headers), data
        finally:
            connection.close()

    def put(self, vdi: str, body: bytes, **how: str) -> tuple[int, str]:
        """The HTTP status, and how the task ended."""
        task = self.xen.task.create("put", "")
        uuid = self.xen.VDI.get_uuid(vdi)
        query = {"vdi": uuid, "format": "raw", "task_id": task, **how}
        status, _, _ = self.http("PUT", "/import_raw_vdi", query, body)
        return status, self.ended(task)

    def get(self, vdi: str, **how: str) -> bytes:
        uuid = self.xen.VDI.get_uuid(vdi)
        query = {"vdi": uuid, "format": "raw", **how}
        return self.http("GET", "/export_raw_vdi", query)[2]


@pytest.fixture
def api(sim: XcpngSim) -> Iterator[Api]:
    api = Api(sim)
    yield api
    api.session("close")()


def eventually(look, *, seconds: float = 10):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.005)
    return found
