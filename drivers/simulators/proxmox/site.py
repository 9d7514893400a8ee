"""One simulated Proxmox VE site: a folder, an HTTPS API, an ssh server, and knobs for tests."""

import datetime as dt
import hashlib
import json
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

import asyncssh
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from drivers.simulators.faults import REALISTIC, Faults, Profile
from drivers.simulators.proxmox.access import FEDCTL_ROLE
from drivers.simulators.proxmox.http import ApiServer
from drivers.simulators.proxmox.node import Node
from drivers.simulators.proxmox.ssh import SshServer
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
        identity = _identity(folder, name)
        self.credentials = Credentials(
            token_id=f"{USER}!{TOKEN}",
            token_secret=identity["token"],
            fingerprint=_fingerprint(folder / "api.pem"),
            ssh_user="root",
            ssh_private_key=identity["root_key"],
            ssh_host_key=_public(identity["host_key"]),
            root_password=identity["root_password"],
        )
        self._identity = identity
        self._ports = {
            "api": port or int(identity.get("api_port", "0")),
            "ssh": ssh_port or int(identity.get("ssh_port", "0")),
        }
        self._node: Node | None = None
        self._api: ApiServer | None = None
        self._ssh: SshServer | None = None
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
        self._api = ApiServer(
            node,
            port=self._ports["api"],
            certificate=self.folder / "api.pem",
            key=self.folder / "api.key",
        )
        self._ssh = SshServer(
            node,
            port=self._ports["ssh"],
            host_key=self._identity["host_key"],
            authorized=_public(self._identity["root_key"]),
        )
        self._api.start()
        self._ssh.start()
        self._ports = {"api": self._api.port, "ssh": self._ssh.port}
        kept = {f"{which}_port": str(port) for which, port in self._ports.items()}
        _keep(self.folder, self._identity | kept)
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


def _identity(folder: Path, name: str) -> dict[str, str]:
    """Keys and secrets of a site, made once."""
    file = folder / "identity.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    _certificate(folder, name)
    made = {
        "token": secrets.token_hex(16),
        "root_password": secrets.token_urlsafe(16),
        "user_password": secrets.token_urlsafe(16),
        "root_key": _private_key(),
        "host_key": _private_key(),
    }
    _keep(folder, made)
    return made


def _keep(folder: Path, identity: dict[str, str]) -> None:
    file = folder / "identity.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(identity))


def _private_key() -> str:
    key = asyncssh.generate_private_key("ssh-ed25519")
    return key.export_private_key().decode()


def _public(private: str) -> str:
    return asyncssh.import_private_key(private).export_public_key().decode().strip()


def _certificate(folder: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name}.invalid")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "api.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = folder / "api.key"
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def _fingerprint(file: Path) -> str:
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(file.read_text())).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
