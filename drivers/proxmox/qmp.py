"""What only a VM's own QEMU can do: points in time of its disks, their changes, standing still.

The QEMU Machine Protocol over the node's socket of the VM, in short connections: Proxmox VE uses
the same socket, which serves one client at a time. A point is a transaction of QEMU (image
fleecing): for each disk a backup job keeps what is overwritten from then on in a scrap file, and a
new dirty bitmap notes what changes; what those of earlier points noted is copied in the same moment
and noted on: a point may go, and be of no interest to who asks for changes since another.
"""

import base64
import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from controlplane.domain.errors import Busy, Conflict, FedctlError, NotFound, Unavailable
from controlplane.domain.ids import ArtefactId
from drivers.disks.ssh import Forward
from drivers.disks.stream import TimedStream

_BITMAP = "fedctl-"
_LONGEST_LINE = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveDisk:
    """A disk of a running VM as its QEMU knows it; `bitmaps` are ours, `recording` points'."""

    slot: str
    node: str
    size: int
    bitmaps: frozenset[str]
    recording: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a QEMU holds of ours: scrap nodes, backup jobs and exports, by name."""

    disks: tuple[LiveDisk, ...]
    nodes: frozenset[str]
    jobs: frozenset[str]
    exports: frozenset[str]
    paused: bool


def node_name(point: ArtefactId, disk: int) -> str:
    """The name of a point's scrap node for a disk; QEMU allows 31 characters."""
    short = base64.b32encode(point.bytes).decode().rstrip("=").lower()
    return f"f{short}-{disk}"


def bitmap_name(point: ArtefactId) -> str:
    return f"{_BITMAP}{point.hex}"


def changes_name(mark: ArtefactId, point: ArtefactId) -> str:
    """The bitmap of what changed from one point to another."""
    return f"{bitmap_name(mark)}-{point.hex}"


def bitmaps_of(point: ArtefactId, names: Iterable[str]) -> list[str]:
    """Those that go with the point: what changes since it, and what changed until it."""
    return sorted(n for n in names if n == bitmap_name(point) or n.endswith(f"-{point.hex}"))


class Qmp:
    """One short connection; every command ends within the timeout."""

    def __init__(self, forward: Forward, *, where: str, timeout: float) -> None:
        self._where = where
        self._forward = forward
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(timeout)
        self._stream = TimedStream(connected)
        self._pending = b""
        try:
            self._connect(connected, forward.path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self._forward.close()

    # -- what there is -------------------------------------------------------------------------

    def live(self, slots: Sequence[str]) -> Live:
        """The VM's disks in the order of `slots`, and what is ours of them."""
        devices = self._execute("query-block")
        nodes = self._execute("query-named-block-nodes", flat=True)
        jobs = self._execute("query-block-jobs")
        exports = self._execute("query-block-exports")
        status = self._execute("query-status")
        with self._readable():
            return Live(
                disks=tuple(self._disk(slot, devices) for slot in slots),
                nodes=frozenset(str(node.get("node-name")) for node in nodes),
                jobs=frozenset(str(job["device"]) for job in jobs),
                exports=frozenset(str(export["id"]) for export in exports),
                paused=not status["running"],
            )

    def _disk(self, slot: str, devices: Sequence[Mapping[str, Any]]) -> LiveDisk:
        for device in devices:
            # Before version 9 a drive has a name, since then only the device it is plugged into.
            known = {str(device.get("device")).removeprefix("drive-"), str(device.get("qdev"))}
            if slot not in known or "inserted" not in device:
                continue
            inserted = device["inserted"]
            ours = [b for b in inserted.get("dirty-bitmaps", []) if _ours(b)]
            return LiveDisk(
                slot=slot,
                node=str(inserted["node-name"]),
                size=int(inserted["image"]["virtual-size"]),
                bitmaps=frozenset(b["name"] for b in ours),
                recording=frozenset(b["name"] for b in ours if b["recording"]),
            )
        raise NotFound(f"{self._where}: its QEMU shows no disk {slot}: look at the VM")

    # -- points in time ------------------------------------------------------------------------

    def add_scrap(self, node: str, file: str, disk: LiveDisk) -> None:
        """A node that keeps what will be overwritten of the disk, in a qcow2 file made before."""
        self._execute(
            "blockdev-add",
            **{
                "driver": "qcow2",
                "node-name": node,
                "file": {"driver": "file", "filename": file},
                "backing": disk.node,
            },
        )

    def take_point(self, point: ArtefactId, disks: Sequence[LiveDisk]) -> None:
        """All disks at one moment, or none.

        A disk's backup comes first: from there on nothing is written until all is done.
        """
        actions: list[dict[str, Any]] = []
        for number, disk in enumerate(disks):
            node = node_name(point, number)
            backup = {"job-id": node, "device": disk.node, "target": node, "sync": "none"}
            actions.append({"type": "blockdev-backup", "data": backup})
            for mark in sorted(disk.recording):
                until = f"{mark}-{point.hex}"
                actions += [
                    _bitmap("add", disk, name=until, disabled=True),
                    _bitmap("merge", disk, target=until, bitmaps=[mark]),
                ]
            actions.append(_bitmap("add", disk, name=bitmap_name(point)))
        self._execute("transaction", actions=actions)

    def cancel_job(self, node: str) -> None:
        self._execute("block-job-cancel", device=node)

    def drop_scrap(self, node: str) -> None:
        self._execute("blockdev-del", **{"node-name": node})

    def drop_bitmap(self, node: str, name: str) -> None:
        self._execute("block-dirty-bitmap-remove", node=node, name=name)

    # -- exports -------------------------------------------------------------------------------

    def serve(self, path: str) -> None:
        """QEMU's NBD server on a socket of the node; one that runs already will do."""
        address = {"type": "unix", "data": {"path": path}}
        try:
            self._execute("nbd-server-start", addr=address)
        except FedctlError as e:
            if "already running" not in str(e):
                raise

    def export(self, name: str, node: str, bitmap: tuple[str, str] | None) -> None:
        """Show a node, read-only; `bitmap` is (node, name) of what tells the changes."""
        told = [] if bitmap is None else [{"node": bitmap[0], "name": bitmap[1]}]
        self._execute(
            "block-export-add",
            **{
                "type": "nbd", "id": name, "node-name": node, "name": name, "writable": False,
                "bitmaps": told,
            },
        )  # fmt: skip

    def drop_export(self, name: str) -> None:
        """Whoever reads through it fails from now on."""
        self._execute("block-export-del", id=name, mode="hard")

    # -- standing still ------------------------------------------------------------------------

    def stop(self) -> None:
        self._execute("stop")

    def stands_still(self) -> bool:
        status = self._execute("query-status")
        with self._readable():
            return not status["running"]

    def go_on(self) -> None:
        self._execute("cont")

    # -- the protocol --------------------------------------------------------------------------

    def _connect(self, connected: socket.socket, path: Path) -> None:
        try:
            connected.connect(str(path))
        except OSError as e:
            raise self._gone() from e
        self._stream.begin()
        if "QMP" not in self._line():
            raise self._gone()
        self._execute("qmp_capabilities")

    def _execute(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401  # JSON
        order = {"execute": command} | ({"arguments": arguments} if arguments else {})
        try:
            self._stream.begin()
            self._stream.send(json.dumps(order).encode() + b"\n")
        except OSError as e:
            raise self._gone() from e
        while True:
            answer = self._line()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                with self._readable():
                    raise self._failed(command, answer["error"])

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._pending:
            try:
                self._pending += self._stream.some(1 << 16)
            except OSError as e:
                raise self._gone() from e
            if len(self._pending) > _LONGEST_LINE:
                raise self._gone()
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise self._gone() from e
        return answer if isinstance(answer, dict) else {}

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """An answer of another shape than QEMU's is none."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise self._gone() from e

    def _gone(self) -> Unavailable:
        return Unavailable(
            f"{self._where}: its QEMU does not answer (it may be stopping, or Proxmox VE is talking"
            " to it): ask again"
        )

    def _failed(self, command: str, error: Mapping[str, Any]) -> FedctlError:
        said = str(error.get("desc", "no reason given"))
        text = f"{self._where}: QEMU refused {command}: {said}"
        if (
            error.get("class") == "DeviceNotFound"
            or "not found" in said
            or "does not exist" in said
        ):
            return NotFound(f"{text}: look at the VM", detail=said)
        if "in use" in said or "is busy" in said:
            return Busy(f"{text}: ask again", detail=said)
        return Conflict(f"{text}: look at the VM", detail=said)


def _bitmap(action: str, disk: LiveDisk, **data: object) -> dict[str, Any]:
    return {"type": f"block-dirty-bitmap-{action}", "data": {"node": disk.node, **data}}


def _ours(bitmap: Mapping[str, Any]) -> bool:
    return str(bitmap.get("name", "")).startswith(_BITMAP)
