"""What only root's shell on the node can do: config locks, volume paths, disks over qemu-nbd."""

import re
import secrets
import shlex
from dataclasses import dataclass
from pathlib import PurePosixPath

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Denied,
    Exhausted,
    FedctlError,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import SiteAccess
from drivers.disks.nbd import NbdConnection
from drivers.disks.ssh import Forward, Ssh, SshAccess
from drivers.proxmox.qmp import Qmp

_RUN = "/run/fedctl"
_INACTIVE, _NOT_LOADED = 3, 5  # what systemctl exits with
_AGENT_SECONDS = 10
_ZVOL = "/dev/zvol/"
SCRAPS = "/var/tmp/fedctl"  # noqa: S108  # root's own folder on the node


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A qemu-nbd of ours as the node's process list shows it."""

    pid: int
    owner: OwnerTag
    writable: bool
    volume: str
    snapshot: str
    size: int
    socket: str


class NodeShell:
    """Root's shell, opened when first needed."""

    def __init__(self, access: SiteAccess, *, host: str) -> None:
        self._site, self._timeout = access.site, access.timeout
        self._access: SshAccess | None = None
        self._ssh: Ssh | None = None
        if key := access.secrets.get("ssh_key"):
            if "ssh" not in access.pins:
                raise Invalid(
                    f"site {access.site}: an ssh key without a pinned host key: register the site"
                    " with the node's ssh host key"
                )
            self._access = SshAccess(
                host=access.options.get("ssh_host", host),
                port=int(access.options.get("ssh_port", "22")),
                user=access.options.get("ssh_user", "root"),
                private_key=key,
                host_key=access.pins["ssh"],
            )

    @property
    def known(self) -> bool:
        """Whether a key was given for it."""
        return self._access is not None

    def run(self, *words: str) -> str:
        """Run one command; what it printed. Raises what its failure means."""
        done = self._opened().run(shlex.join(words))
        if done.status:
            raise _failed(f"site {self._site}: {words[0]} {words[1]}", done.err.strip())
        return done.out

    def write(self, path: str, text: str) -> None:
        """Put a small file on the node."""
        done = self._opened().run(shlex.join(["tee", path]), stdin=text)
        if done.status:
            raise _failed(f"site {self._site}: writing {path}", done.err.strip())

    def close(self) -> None:
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None

    # -- configuration locks -------------------------------------------------------------------

    def configure(self, vmid: int, changes: dict[str, str], *, skiplock: bool = False) -> None:
        """`qm set`, past a lock of ours where told so."""
        words = [word for key, value in changes.items() for word in (f"--{key}", value)]
        skip = ["--skiplock", "1"] if skiplock else []
        self.run("qm", "set", str(vmid), *skip, *words)

    def unlock(self, vmid: int) -> None:
        self.run("qm", "unlock", str(vmid))

    # -- what the node does by itself ----------------------------------------------------------

    def run_later(self, unit: str, seconds: int, *words: str) -> None:
        """The node runs the command after so long, once, unless told otherwise; one a unit."""
        self.run_no_more(unit)
        after = [f"--on-active={seconds}", "--timer-property=AccuracySec=1s"]
        self.run("systemd-run", f"--unit={unit}", *after, "--collect", *words)

    def run_no_more(self, unit: str) -> None:
        done = self._opened().run(shlex.join(["systemctl", "stop", f"{unit}.timer"]))
        if done.status not in {0, _NOT_LOADED}:
            raise _failed(f"site {self._site}: systemctl stop", done.err.strip())

    def runs_later(self, unit: str) -> bool:
        """Whether a command of that unit still waits for its time."""
        done = self._opened().run(shlex.join(["systemctl", "is-active", f"{unit}.timer"]))
        if done.status not in {0, _INACTIVE}:
            raise _failed(f"site {self._site}: systemctl is-active", done.err.strip())
        return done.status == 0

    def ask_agent(self, vmid: int, command: str) -> bool:
        """Whether the guest's agent did it within ten seconds; else what it did is not known.

        Proxmox VE itself would wait an hour for file systems that do not freeze.
        """
        words = ["timeout", str(_AGENT_SECONDS), *agent_command(vmid, command)]
        return self._opened().run(shlex.join(words)).status == 0

    # -- disks ---------------------------------------------------------------------------------

    def served(self) -> list[Served]:
        """Every qemu-nbd of ours on the node."""
        done = self._opened().run("pgrep -a -x qemu-nbd")
        if done.status not in {0, 1}:  # 1: none
            raise _failed(f"site {self._site}: pgrep", done.err.strip())
        found = (_served(line) for line in done.out.splitlines())
        return [export for export in found if export is not None]

    def serve(
        self, owner: OwnerTag, volume: str, *, snapshot: str, size: int, writable: bool
    ) -> str:
        """Start a qemu-nbd on a volume or on its snapshot; it stays until ended. Its socket."""
        path = self.path(volume)
        form = "qcow2" if volume.endswith(".qcow2") else "raw"
        options = []
        if snapshot and form == "qcow2":
            options = [f"--load-snapshot={snapshot}"]
        elif snapshot and path.startswith(_ZVOL):
            self.run("zfs", "set", "snapdev=visible", path.removeprefix("/dev/zvol/"))
            path = f"{path}@{snapshot}"
        elif snapshot:
            raise Unsupported(
                f"site {self._site}: a snapshot of {volume} cannot be read on this storage: stop"
                " the instance and read the disk itself"
            )
        socket = _socket(owner, writable=writable)
        self.run("mkdir", "-p", _RUN)
        kind = "w" if writable else "r"
        self.run(
            "qemu-nbd",
            "--fork",
            "--persistent",
            "--shared=8",
            f"--socket={socket}",
            f"--export-name={owner.text()}",
            f"--description={kind},{volume},{snapshot},{size}",
            f"--format={form}",
            *(["--discard=unmap"] if writable else ["--read-only"]),
            *options,
            path,
        )
        return socket

    def end(self, export: Served) -> None:
        """Stop a qemu-nbd: whoever reads or writes through it fails from now on."""
        try:
            self.run("kill", str(export.pid))
        except NotFound:
            return  # it ended by itself

    def opened(self, export: Served) -> tuple[NbdConnection, Forward]:
        """An NBD connection to it, and the forwarded socket to be closed after it."""
        return self.connected(export.socket, export.owner.text())

    def connected(
        self, remote: str, name: str, *, bitmap: str | None = None
    ) -> tuple[NbdConnection, Forward]:
        """An NBD connection to the export `name` behind a socket of the node."""
        forward = self._opened().forward(remote)
        try:
            connection = NbdConnection.over_unix(
                forward.path, name, timeout=self._timeout, bitmap=bitmap
            )
        except BaseException:
            forward.close()
            raise
        return connection, forward

    # -- a VM's own QEMU -----------------------------------------------------------------------

    def qmp(self, vmid: int) -> Qmp:
        """A short connection to its monitor."""
        forward = self._opened().forward(f"/run/qemu-server/{vmid}.qmp")
        return Qmp(forward, where=f"VM {vmid} at {self._site}", timeout=self._timeout)

    def scraps(self) -> list[str]:
        """The names of our scrap files and markers on the node."""
        done = self._opened().run(f"ls -1 {SCRAPS}")
        return done.out.split() if not done.status else []

    def make_scrap_folder(self) -> None:
        self.run("mkdir", "-p", SCRAPS)

    def make_run_folder(self) -> None:
        self.run("mkdir", "-p", _RUN)

    def import_folder(self, storage: str) -> PurePosixPath:
        """Where the storage keeps its import files."""
        return PurePosixPath(self.path(f"{storage}:import/fedctl.raw")).parent

    def path(self, volume: str) -> str:
        """Where the node has a volume, or would have it."""
        return self.run("pvesm", "path", volume).strip()

    def _opened(self) -> Ssh:
        if self._access is None:
            raise Unsupported(
                f"site {self._site}: this needs root's ssh key for the node: register the site"
                " with ssh_key and the node's host key"
            )
        if self._ssh is not None and not self._ssh.alive:
            self.close()  # it broke in an earlier call; what it forwarded is gone with it
        if self._ssh is None:
            self._ssh = Ssh(self._access, timeout=self._timeout)
        return self._ssh


def agent_command(vmid: int, command: str) -> list[str]:
    """What a node runs to have a command done by the agent in a guest."""
    return ["qm", "guest", "cmd", str(vmid), command]


def _socket(owner: OwnerTag, *, writable: bool) -> str:
    """A name of its own each time: a qemu-nbd on its way out still unlinks its own socket."""
    return f"{_RUN}/{owner.artefact.hex}-{'w' if writable else 'r'}{secrets.token_hex(4)}.sock"


def _served(line: str) -> Served | None:
    """One line of pgrep; None when that qemu-nbd is not ours."""
    pid, *words = line.split(" ")
    options = dict(re.findall(r"--([a-z-]+)=(\S*)", " ".join(words)))
    try:
        kind, volume, snapshot, size = options["description"].split(",")
        return Served(
            pid=int(pid),
            owner=OwnerTag.parse(options["export-name"]),
            writable=kind == "w",
            volume=volume,
            snapshot=snapshot,
            size=int(size),
            socket=options["socket"],
        )
    except (Invalid, ValueError, KeyError):
        return None


_MEANINGS: tuple[tuple[str, type[FedctlError], str], ...] = (
    (r"does not exist|No such (file|process)|unable to parse volume", NotFound, "look there"),
    (r"get \"write\" lock", Conflict, "stop the instance and any other writer"),
    (r"VM is locked|can't lock|got timeout|checksum mismatch|in use", Busy, "ask again"),
    (r"out of space|No space left", Exhausted, "free some space"),
    (r"Permission denied|not permitted", Denied, "log in as root"),
    (r"command not found", Unsupported, "install it on the node"),
)


def _failed(about: str, said: str) -> FedctlError:
    """What a command's last words mean."""
    for pattern, kind, advice in _MEANINGS:
        if re.search(pattern, said):
            return kind(f"{about}: {said}: {advice}", detail=said)
    return Unavailable(f"{about}: {said or 'it failed without a word'}: look there", detail=said)
