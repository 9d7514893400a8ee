"""A simulated Proxmox VE site, and the provider's own client for it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from proxmoxer import ProxmoxAPI

from drivers.disks.ssh import Ssh, SshAccess
from drivers.simulators.faults import STEADY
from drivers.simulators.proxmox import ProxmoxSim
from tests.contract.images import Gateway
from tests.simulators.proxmox.schema import Call, watch

CALLS: list[Call] = []


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[ProxmoxSim]:
    with ProxmoxSim(tmp_path / "pve", profile=STEADY, seed=1) as sim:
        watch(sim, CALLS)
        yield sim


class Api:
    """proxmoxer, unmodified, logged in with a token; trusts the certificate it is given."""

    def __init__(self, sim: ProxmoxSim, token_id: str = "", secret: str = "", **login) -> None:
        user, _, token = (token_id or sim.credentials.token_id).partition("!")
        if not login:
            login = {
                "user": user,
                "token_name": token,
                "token_value": secret or sim.credentials.token_secret,
            }
        host = sim.url.removeprefix("https://")
        self.proxmox = ProxmoxAPI(host, verify_ssl=str(sim.folder / "api.pem"), **login)
        self.node = self.proxmox.nodes(sim.name)

    def close(self) -> None:
        self.proxmox._store["session"].close()

    def done(self, upid: str) -> str:
        """The exit status of a task, once it has one."""
        deadline = time.monotonic() + 20
        while (status := self.node.tasks(upid).status.get())["status"] != "stopped":
            assert time.monotonic() < deadline, status
            time.sleep(0.005)
        return status["exitstatus"]

    def vm(self, vmid: int = 100, **config) -> int:
        """A made VM."""
        wish = {"name": f"vm{vmid}", "scsi0": "local-zfs:0.0078125", **config}
        assert self.done(self.node.qemu.post(vmid=vmid, **wish)) == "OK"
        return vmid


@pytest.fixture
def api(sim: ProxmoxSim) -> Iterator[Api]:
    api = Api(sim)
    yield api
    api.close()


@pytest.fixture
def other(sim: ProxmoxSim) -> Iterator[Callable[..., Api]]:
    """Further logins."""
    opened: list[Api] = []

    def log_in(*args, **login) -> Api:
        opened.append(Api(sim, *args, **login))
        return opened[-1]

    yield log_in
    for one in opened:
        one.close()


@pytest.fixture
def raw(sim: ProxmoxSim) -> Iterator[Callable[..., requests.Response]]:
    """Calls without any client's help."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(sim.folder / "api.pem")

        def call(method: str, path: str, *, token: bool = True, **more) -> requests.Response:
            known = sim.credentials
            header = f"PVEAPIToken={known.token_id}={known.token_secret}"
            headers = {"Authorization": header} if token else {}
            headers |= more.pop("headers", {})
            url = f"{sim.url}/api2/json{path}"
            return session.request(method, url, headers=headers, timeout=10, **more)

        yield call


@pytest.fixture
def shell(sim: ProxmoxSim) -> Iterator[Ssh]:
    host, port = sim.ssh_address
    access = SshAccess(
        host=host,
        port=port,
        user="root",
        private_key=sim.credentials.ssh_private_key,
        host_key=sim.credentials.ssh_host_key,
    )
    ssh = Ssh(access, timeout=10)
    yield ssh
    ssh.close()


@pytest.fixture(scope="session")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()
