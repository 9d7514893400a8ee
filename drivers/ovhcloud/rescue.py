"""A server's rescue system over ssh: that it is there, its disk, and what is done to it."""

import json
import re
import secrets
import shlex
from dataclasses import dataclass

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
from drivers.disks.ssh import Forward, Ssh, SshAccess, public_key

_RUN = "/run/fedctl"
# Each ends when it is done, whoever went away meanwhile; its file is there only when all is well.
# Begun a second time, it leaves the first one to it.
_ONCE = 'exec 9> "{0}.lock"; flock -n 9 || exit 0; [ -e "{0}" ] && exit 0; '
_WIPING = _ONCE.format("$2") + 'blkdiscard -f -z "$1" && echo done > "$2.new" && mv "$2.new" "$2"'
_FETCHING = (
    _ONCE.format("$3") + 'curl -fsS "$1" | tee "$2" | sha256sum > "$3.new" && mv "$3.new" "$3"'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A qemu-nbd of ours as the rescue system's process list shows it."""

    pid: int
    owner: OwnerTag
    writable: bool
    size: int
    socket: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The first disk: its device and its bytes."""

    device: str
    size: int


class Rescues:
    """The way into the servers of a site while they are in rescue."""

    def __init__(self, access: SiteAccess) -> None:
        self._site, self._timeout = access.site, access.timeout
        self._key = access.secrets.get("ssh_key", "")
        if not self._key:
            raise Invalid(
                f"site {access.site}: disks of servers are reached over ssh in rescue: register"
                " the site with an ssh_key made for that alone"
            )
        self.public_key = public_key(self._key)
        self._places = _places(access)
        self._open: dict[str, Rescue] = {}

    def of(self, server: str, address: str, host_key: str | None) -> "Rescue":
        """A connection to a server that is thought to be in rescue; Unavailable, Denied."""
        known = self._open.get(server)
        if known is not None and known.alive:
            return known
        self.forget(server)
        host, port = self._places.get(server, (address, 22))
        ssh = Ssh(
            SshAccess(host=host, port=port, user="root", private_key=self._key, host_key=host_key),
            timeout=self._timeout,
        )
        made = Rescue(f"{server} at {self._site}", ssh, timeout=self._timeout)
        self._open[server] = made
        return made

    def forget(self, server: str) -> None:
        """End the connection to a server that is about to boot something else."""
        known = self._open.pop(server, None)
        if known is not None:
            known.close()

    def close(self) -> None:
        for server in tuple(self._open):
            self.forget(server)


def _places(access: SiteAccess) -> dict[str, tuple[str, int]]:
    """`server=host:port` with commas between: where another way than port 22 is meant."""
    found = {}
    for each in filter(None, access.options.get("ssh_at", "").split(",")):
        match = re.fullmatch(r"\s*([^=\s]+)=(\S+):(\d+)\s*", each)
        if match is None:
            raise Invalid(
                f"site {access.site}: the option ssh_at is server=host:port with commas between"
            )
        found[match[1]] = (match[2], int(match[3]))
    return found


class Rescue:
    """One open shell of one server's rescue system."""

    def __init__(self, about: str, ssh: Ssh, *, timeout: float) -> None:
        self._about, self._ssh, self._timeout = about, ssh, timeout

    @property
    def alive(self) -> bool:
        return self._ssh.alive

    @property
    def fingerprint(self) -> str:
        return self._ssh.fingerprint

    def close(self) -> None:
        self._ssh.close()

    def run(self, *words: str) -> str:
        """Run one command; what it printed. Raises what its failure means."""
        done = self._ssh.run(shlex.join(words))
        if done.status:
            raise _failed(f"{self._about}: {words[0]}", done.err.strip())
        return done.out

    # -- the machine ---------------------------------------------------------------------------

    def proven(self) -> Block:
        """The first disk, once it is certain that this is the rescue system and uses no disk."""
        name = self.run("hostname").strip()
        if not name.startswith("rescue"):
            raise Conflict(
                f"{self._about}: {name[:40]!r} answers there and not the rescue system: use an"
                " ssh key that no installed system knows"
            )
        told = self.run("lsblk", "-J", "-b", "-o", "NAME,SIZE,TYPE,MOUNTPOINT")
        try:
            disks = [each for each in json.loads(told)["blockdevices"] if each["type"] == "disk"]
            mounted = [each["name"] for each in disks if _mounted(each)]
            first = disks[0]
            block = Block(device=f"/dev/{first['name']}", size=int(first["size"]))
        except (ValueError, LookupError, TypeError) as e:
            raise Unavailable(f"{self._about}: lsblk tells no disk: look there") from e
        if mounted:
            raise Conflict(f"{self._about}: {mounted[0]} is mounted in rescue: unmount it there")
        return block

    # -- long work -----------------------------------------------------------------------------

    def wiped(self, block: Block) -> bool:
        """Whether every byte of the disk is zero; begins that when it was not."""
        return bool(self._worked("wipe", _WIPING, block.device))

    def fetched(self, name: str, url: str, block: Block) -> str | None:
        """The SHA-256 of what was fetched onto the disk; None while it is on its way."""
        told = self._worked(name, _FETCHING, url, block.device)
        match = re.match(r"([0-9a-f]{64}) ", told)
        return match[1] if match else None

    def _worked(self, name: str, script: str, *words: str) -> str:
        """What a piece of work left behind; empty while it goes on, which this begins."""
        place = f"{_RUN}/{name}"
        done = self._ssh.run(shlex.join(["cat", place]))
        if not done.status:
            return done.out
        self.run("mkdir", "-p", _RUN)
        self.run("setsid", "-f", "sh", "-c", script, name, *words, place)
        return ""

    # -- disks ---------------------------------------------------------------------------------

    def served(self) -> list[Served]:
        """Every qemu-nbd of ours here."""
        done = self._ssh.run("pgrep -a -x qemu-nbd")
        if done.status not in {0, 1}:  # 1: none
            raise _failed(f"{self._about}: pgrep", done.err.strip())
        found = (_served(line) for line in done.out.splitlines())
        return [export for export in found if export is not None]

    def serve(self, owner: OwnerTag, block: Block, *, writable: bool) -> str:
        """Start a qemu-nbd on the disk, until it is ended or the server boots; its socket."""
        kind = "w" if writable else "r"
        # A name of its own each time: one on its way out still unlinks its own socket.
        socket = f"{_RUN}/{owner.artefact.hex}-{kind}{secrets.token_hex(4)}.sock"
        self.run("mkdir", "-p", _RUN)
        self.run(
            "qemu-nbd",
            "--fork",
            "--persistent",
            "--shared=8",
            f"--socket={socket}",
            f"--export-name={owner.text()}",
            f"--description={kind},{block.size}",
            "--format=raw",
            "--discard=unmap" if writable else "--read-only",
            block.device,
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
        forward = self._ssh.forward(export.socket)
        try:
            connection = NbdConnection.over_unix(
                forward.path, export.owner.text(), timeout=self._timeout
            )
        except BaseException:
            forward.close()
            raise
        return connection, forward


def _mounted(block: dict[str, object]) -> bool:
    children = block.get("children") or []
    below = any(_mounted(each) for each in children) if isinstance(children, list) else False
    return bool(block.get("mountpoint")) or below


def _served(line: str) -> Served | None:
    """One line of pgrep; None when that qemu-nbd is not ours."""
    pid, *words = line.split(" ")
    options = dict(re.findall(r"--([a-z-]+)=(\S*)", " ".join(words)))
    try:
        kind, size = options["description"].split(",")
        return Served(
            pid=int(pid),
            owner=OwnerTag.parse(options["export-name"]),
            writable=kind == "w",
            size=int(size),
            socket=options["socket"],
        )
    except (Invalid, ValueError, KeyError):
        return None


NOT_THERE = (Unavailable, Denied)
"""What a server answers that is not, or not yet, in rescue."""

_MEANINGS: tuple[tuple[str, type[FedctlError], str], ...] = (
    (r"No such (file|process)", NotFound, "look there"),
    (r"get \"write\" lock", Conflict, "end any other writer"),
    (r"in use", Busy, "ask again"),
    (r"No space left", Exhausted, "free some space"),
    (r"Permission denied|not permitted", Denied, "log in as root"),
    (r"command not found", Unsupported, "ask OVHcloud for a rescue system that has it"),
)


def _failed(about: str, said: str) -> FedctlError:
    """What a command's last words mean."""
    for pattern, kind, advice in _MEANINGS:
        if re.search(pattern, said):
            return kind(f"{about}: {said}: {advice}", detail=said)
    return Unavailable(f"{about}: {said or 'it failed without a word'}: look there", detail=said)
