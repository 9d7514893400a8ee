"""What only oneadmin's shell at the datastores can do: digests, longer files, disks over NBD."""

import json
import re
import secrets
import shlex
from collections.abc import Sequence
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
from drivers.disks.ssh import Forward, Ssh, SshAccess

_RUN = "/run/fedctl"
_SUMS = "/var/tmp/fedctl"  # noqa: S108  # oneadmin's own folder at the datastores
# Ends when it is done, whoever went away meanwhile; the digest's file is there only when whole.
_SUMMING = 'sha256sum "$1" > "$2.new" && mv "$2.new" "$2"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A disk's file, or chain of qcow2 files (the newest first), and the disk's length in bytes.

    What changed is told by the topmost `layers` of a chain, or by a `bitmap` in the file.
    """

    paths: tuple[str, ...]
    form: str
    size: int
    layers: int = 0
    bitmap: str = ""

    def opened(self) -> tuple[str, ...]:
        """The words that tell it to qemu-nbd."""
        told = ("--allocation-depth",) if self.layers else ()
        if self.bitmap:
            told = (f"--bitmap={self.bitmap}",)
        if len(self.paths) > 1:
            return (*told, _chained(self.paths))
        return (*told, f"--format={self.form}", self.paths[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A qemu-nbd of ours as the host's process list shows it.

    `layers` of its chain of files, or its `bitmap`, tell what changed since the mark that was
    given.
    """

    pid: int
    owner: OwnerTag
    writable: bool
    volume: str
    snapshot: str
    size: int
    socket: str
    layers: int = 0
    bitmap: str = ""

    @property
    def changed_only(self) -> bool:
        return bool(self.layers or self.bitmap)


class DatastoreShell:
    """oneadmin's shell where the datastores are mounted, opened when first needed."""

    def __init__(self, access: SiteAccess, *, host: str) -> None:
        self._site, self._timeout = access.site, access.timeout
        if not access.secrets.get("ssh_key") or "ssh" not in access.pins:
            raise Invalid(
                f"site {access.site}: disks of OpenNebula leave, change and are proven over ssh:"
                " register the site with ssh_key and the pinned ssh host key"
            )
        self._access = SshAccess(
            host=access.options.get("ssh_host", host),
            port=int(access.options.get("ssh_port", "22")),
            user=access.options.get("ssh_user", "oneadmin"),
            private_key=access.secrets["ssh_key"],
            host_key=access.pins["ssh"],
        )
        self._ssh: Ssh | None = None

    def run(self, *words: str) -> str:
        """Run one command; what it printed. Raises what its failure means."""
        done = self._opened().run(shlex.join(words))
        if done.status:
            raise _failed(f"site {self._site}: {words[0]}", done.err.strip())
        return done.out

    def close(self) -> None:
        if self._ssh is not None:
            self._ssh.close()
            self._ssh = None

    # -- files ---------------------------------------------------------------------------------

    def real(self, path: str) -> str:
        """Where a disk really is: VM disks may be links into the image datastore."""
        return self.run("readlink", "-f", path).strip()

    def lengthen(self, path: str, form: str, size: int) -> None:
        """Make the disk in a file `size` bytes long; so long already is fine."""
        self.run("qemu-img", "resize", "-f", form, path, str(size))

    def digest(self, path: str, name: str) -> str | None:
        """The SHA-256 of a file; None while it is being made, which this begins."""
        place = f"{_SUMS}/{name}.sum"
        done = self._opened().run(shlex.join(["cat", place]))
        if not done.status and (match := re.match(r"([0-9a-f]{64}) ", done.out)):
            return match[1]
        self.run("mkdir", "-p", _SUMS)
        self.run("setsid", "-f", "sh", "-c", _SUMMING, "sum", path, place)
        return None

    def forget_digest(self, name: str) -> None:
        self.run("rm", "-f", f"{_SUMS}/{name}.sum")

    # -- disks ---------------------------------------------------------------------------------

    def served(self) -> list[Served]:
        """Every qemu-nbd of ours on the host."""
        done = self._opened().run("pgrep -a -x qemu-nbd")
        if done.status not in {0, 1}:  # 1: none
            raise _failed(f"site {self._site}: pgrep", done.err.strip())
        found = (_served(line) for line in done.out.splitlines())
        return [export for export in found if export is not None]

    def serve(
        self,
        owner: OwnerTag,
        volume: str,
        image: Image,
        *,
        writable: bool = False,
        snapshot: str = "",
    ) -> str:
        """Start a qemu-nbd on a disk; it stays until ended. Its socket.

        NotFound, too, where the disk's bitmap is gone or cannot be relied on.
        """
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
            f"--description={kind},{volume},{snapshot},{image.size},{image.layers}",
            "--discard=unmap" if writable else "--read-only",
            *image.opened(),
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
        forward = self._opened().forward(export.socket)
        try:
            connection = NbdConnection.over_unix(
                forward.path,
                export.owner.text(),
                timeout=self._timeout,
                bitmap=export.bitmap or None,
                layers=export.layers,
            )
        except BaseException:
            forward.close()
            raise
        return connection, forward

    def _opened(self) -> Ssh:
        if self._ssh is not None and not self._ssh.alive:
            self.close()  # it broke in an earlier call; what it forwarded is gone with it
        if self._ssh is None:
            self._ssh = Ssh(self._access, timeout=self._timeout)
        return self._ssh


def _served(line: str) -> Served | None:
    """One line of pgrep; None when that qemu-nbd is not ours."""
    pid, *words = line.split(" ")
    options = dict(re.findall(r"--([a-z-]+)=(\S*)", " ".join(words)))
    try:
        kind, volume, snapshot, size, layers = options["description"].split(",")
        return Served(
            pid=int(pid),
            owner=OwnerTag.parse(options["export-name"]),
            writable=kind == "w",
            volume=volume,
            snapshot=snapshot,
            size=int(size),
            socket=options["socket"],
            layers=int(layers),
            bitmap=options.get("bitmap", ""),
        )
    except (Invalid, ValueError, KeyError):
        return None


def _chained(paths: Sequence[str]) -> str:
    """A chain of qcow2 files by name, the newest first.

    The backing files that increments themselves name are sockets that are gone.
    """
    behind: object = None
    for path in reversed(paths):
        file = {"driver": "file", "filename": path}
        behind = {"driver": "qcow2", "file": file, "backing": behind}
    return "json:" + json.dumps(behind, separators=(",", ":"))


_MEANINGS: tuple[tuple[str, type[FedctlError], str], ...] = (
    (r"[Bb]itmap .* (not found|inconsistent)", NotFound, "read all of the disk"),
    (r"No such (file|process)", NotFound, "look there, and at the option ssh_host"),
    (r"get \"write\" lock", Conflict, "stop the instance and any other writer"),
    (r"shrink", Invalid, "ask for a larger disk"),
    (r"in use", Busy, "ask again"),
    (r"No space left", Exhausted, "free some space"),
    (r"Permission denied|not permitted", Denied, "log in as oneadmin"),
    (r"command not found", Unsupported, "install it where the datastores are"),
)


def _failed(about: str, said: str) -> FedctlError:
    """What a command's last words mean."""
    for pattern, kind, advice in _MEANINGS:
        if re.search(pattern, said):
            return kind(f"{about}: {said}: {advice}", detail=said)
    return Unavailable(f"{about}: {said or 'it failed without a word'}: look there", detail=said)
