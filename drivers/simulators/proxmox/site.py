"""One simulated Proxmox VE site: a folder, an HTTPS API, an ssh server, and knobs for tests."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from drivers.simulators.faults import REALISTIC, Faults, Profile
from drivers.simulators.guest import Guests
from drivers.simulators.http import HttpServer
from drivers.simulators.identity import (
    fingerprint,
    keep,
    make_certificate,
    private_key,
    public,
    remembered,
)
from drivers.simulators.proxmox.access import FEDCTL_ROLE
from drivers.simulators.proxmox.http import api_server
from drivers.simulators.proxmox.node import Node
from drivers.simulators.proxmox.ssh import NodeShell
from drivers.simulators.witness import Witness

GIB = 1 << 30
USER, TOKEN = "fedctl@pve", "fedctl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a customer would hand over for this site."""

    token_id: str  # user@realm!name
    token_secret: str = field(repr=False)
    fingerprint: str  # SHA-256 of the API certificate, as Proxmox VE shows it
    ssh_user: str
    ssh_private_key: str = field(repr=False)
    ssh_host_key: str  # the public key line that known_hosts would hold
    root_password: str = field(repr=False)


class ProxmoxSim:
    """A site that starts, stops, and goes on in its folder where it was."""

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "pve",
        port: int = 0,
        ssh_port: int = 0,
        profile: Profile = REALISTIC,
        witness: Witness | None = None,
        seed: int = 0,
        sizes: dict[str, int] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.name, self.profile, self.witness = folder, name, profile, witness
        self.faults = Faults(profile, seed=seed)
        self._sizes = sizes or {"local": 100 * GIB, "local-zfs": 500 * GIB}
        identity = remembered(folder, lambda: _made(folder, name))
        self.credentials = Credentials(
            token_id=f"{USER}!{TOKEN}",
            token_secret=identity["token"],
            fingerprint=fingerprint(folder / "api.pem"),
            ssh_user="root",
            ssh_private_key=identity["root_key"],
            ssh_host_key=public(identity["host_key"]),
            root_password=identity["root_password"],
        )
        self._identity = identity
        self._ports = {
            "api": port or int(identity.get("api_port", "0")),
            "ssh": ssh_port or int(identity.get("ssh_port", "0")),
        }
        self._node: Node | None = None
        self._api: HttpServer[Node] | None = None
        self._ssh: NodeShell | None = None
        self.faults.watch(self._reached)

    # -- life ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Boot the node: state from the folder, guests that ran run again, both sockets open."""
        self._node = node = Node(
            self.folder,
            name=self.name,
            profile=self.profile,
            faults=self.faults,
            witness=self.witness,
            sizes=self._sizes,
        )
        node.access.add_user("root@pam", self._identity["root_password"])
        node.access.add_user(USER, self._identity["user_password"])
        node.access.add_token(USER, TOKEN, self._identity["token"])
        node.access.grant(USER, "/", FEDCTL_ROLE)
        node.access.grant(f"{USER}!{TOKEN}", "/", FEDCTL_ROLE)
        self._api = api_server(
            node,
            port=self._ports["api"],
            certificate=self.folder / "api.pem",
            key=self.folder / "api.key",
        )
        self._ssh = NodeShell(
            node,
            port=self._ports["ssh"],
            host_key=self._identity["host_key"],
            authorized=public(self._identity["root_key"]),
        )
        self._api.start()
        self._ssh.start()
        self._ports = {"api": self._api.port, "ssh": self._ssh.port}
        kept = {f"{which}_port": str(port) for which, port in self._ports.items()}
        keep(self.folder, self._identity | kept)
        return self

    def stop(self) -> None:
        """Shut the node down; what ran is remembered and runs again after `start`."""
        if self._api is not None and self._ssh is not None and self._node is not None:
            self._api.stop()
            self._ssh.close()
            self._node.close()
        self._api = self._ssh = self._node = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reached(self, down: bool) -> None:  # noqa: FBT001  # the watcher's one fact
        if self._api is None or self._ssh is None:
            return
        for server in (self._api, self._ssh):
            if down:
                server.stop()
            else:
                server.start()

    # -- where ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._ports['api']}"

    @property
    def ssh_address(self) -> tuple[str, int]:
        return "127.0.0.1", self._ports["ssh"]

    @property
    def node(self) -> Node:
        """The running node, for tests that look behind the API."""
        if self._node is None:
            raise RuntimeError(f"the simulated site {self.name} is not started")
        return self._node

    @property
    def guests(self) -> Guests:
        return self.node.guests

    # -- knobs ---------------------------------------------------------------------------------

    def resize_storage(self, storage: str, size: int) -> None:
        """Give a storage another total size, in bytes."""
        self._sizes[storage] = size

    @contextmanager
    def held(self, vmid: int) -> Iterator[None]:
        """Hold a VM's flock, as another task would."""
        with self.node.locked(vmid):
            yield

    def timers(self) -> list[str]:
        """The units that wait for their time."""
        return [] if self._ssh is None else self._ssh.timers()

    def guest_console(self, vmid: int) -> str:
        """What the guest printed; the real thing has no API for that."""
        return self.node.guests.console(str(vmid))


def _made(folder: Path, name: str) -> dict[str, str]:
    make_certificate(
        folder / "api.pem",
        folder / "api.key",
        name=f"{name}.invalid",
        addresses=("127.0.0.1",),
    )
    return {
        "token": secrets.token_hex(16),
        "root_password": secrets.token_urlsafe(16),
        "user_password": secrets.token_urlsafe(16),
        "root_key": private_key(),
        "host_key": private_key(),
    }
