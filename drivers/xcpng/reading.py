"""How a disk's bytes are read: over NBD where the pool offers it, else as VHD streams over HTTP."""

import base64
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from controlplane.domain.disk import KIB, BlockReader, Extent, ExtentKind
from controlplane.domain.errors import Conflict, NotFound, Unavailable
from drivers.disks.nbd import NbdConnection
from drivers.disks.nbd_disk import NbdReader
from drivers.disks.vhd import VhdKind, VhdStream
from drivers.disks.vhd_disk import VhdDisk
from drivers.xcpng.base import XcpBase
from drivers.xcpng.client import Record

_BLOCK = 64 * KIB
_REACHED_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a disk is served over NBD; `export` has our session in it: it is not to show."""

    host: str
    port: int
    export: str
    certificate: str
    subject: str


class XcpReading(XcpBase):
    def _nbd_places(self, vdi: Record) -> list[Place]:
        """None where no network has the purpose."""
        places = self._api.call("VDI.get_nbd_info", vdi.ref)
        with self._api.translated("VDI.get_nbd_info"):
            return [
                Place(
                    host=str(place["address"]),
                    port=int(place["port"]),
                    export=str(place["exportname"]),
                    certificate=str(place["cert"]),
                    subject=str(place["subject"]),
                )
                for place in places
            ]

    def _reached(self, vdi: Record) -> Place | None:
        """The first place that takes a connection; looked for no longer than a call takes."""
        end = time.monotonic() + self._api.timeout
        for place in self._nbd_places(vdi):
            left = min(end - time.monotonic(), _REACHED_SECONDS)
            if left <= 0:
                break
            try:
                socket.create_connection((place.host, place.port), timeout=left).close()
            except OSError:
                continue
            return place
        return None

    def _over_nbd(self, vdi: Record, base: str = "") -> BlockReader:
        """With a base (a uuid) only what changed since it is data."""
        place = self._reached(vdi)
        if place is None:
            raise Unavailable(
                f"site {self.site}: disk {vdi.uuid} was offered over NBD and is not any more: open"
                " the port, or give a network the purpose nbd again"
            )
        if not base:
            return self._connected(place)
        before = self._api.text("VDI.get_by_uuid", base)
        told = self._api.text("VDI.list_changed_blocks", before, vdi.ref)
        with self._api.translated("VDI.list_changed_blocks"):
            bitmap = base64.b64decode(told, validate=True)
        return ChangedReader(self._connected(place), bitmap)

    def _connected(self, place: Place) -> NbdReader:
        secure = None
        if "nbd" in self._purposes():
            secure = _secured(place.certificate, place.subject)
        connection = NbdConnection.over_tcp(
            place.host, place.port, place.export, timeout=self._api.timeout, secure=secure
        )
        return NbdReader(connection)

    def _either_way(self, vdi: Record) -> BlockReader:
        """For a look at a disk that is no export."""
        place = self._reached(vdi)
        if place is not None:
            return self._connected(place)
        return self._as_vhd(vdi, "", reading(vdi.uuid), lambda: None)

    # -- VHD -----------------------------------------------------------------------------------

    def _as_vhd(self, vdi: Record, base: str, label: str, still: Callable[[], None]) -> BlockReader:
        """Whole, or with a base (a uuid) what changed since; read best from its beginning on.

        Each stream has a task called `label`; `still` raises once nothing may be read any more.
        """

        def opened() -> VhdStream:
            parts = self._exported(vdi, base, label, still)
            stream = VhdStream(parts, what=what)
            wanted = VhdKind.DIFFERENCING if base else VhdKind.DYNAMIC
            if stream.kind is not wanted or stream.size != vdi.number("virtual_size"):
                stream.close()
                raise Unavailable(
                    f"{what} came as a {stream.kind.name.lower()} VHD of {stream.size} bytes, which"
                    " was not asked for: ask again"
                )
            return stream

        what = f"the export of disk {vdi.uuid} at {self.site}"
        whole = partial(self._as_vhd, vdi, "", label, still) if base else None
        return VhdDisk(opened, what=what, open_whole=whole, still=still)

    def _exported(
        self, vdi: Record, base: str, label: str, still: Callable[[], None]
    ) -> Iterator[bytes]:
        """The bytes of a stream; ends well only if its task did."""
        how = {"format": "vhd"} | ({"base": base} if base else {})
        with self._api.task(label) as task:
            still()  # after the task is made: who takes the mark off cancels tasks after that
            yield from self._api.get(vdi.uuid, task=task, **how)
            self._api.awaited(task, "export_raw_vdi")

    def _ended(self, label: str) -> bool:
        """End the transfers of that label that are under way; whether there were any."""
        ended = False
        for task in self._api.records("task").values():
            if task.text("name_label") == label and task.text("status") == "pending":
                try:
                    self._api.call("task.cancel", task.ref)
                except (NotFound, Conflict):
                    continue
                ended = True
        return ended


class ChangedReader(BlockReader):
    """A disk of which a bitmap tells what changed: 64 KiB a bit, the highest bit first."""

    def __init__(self, reader: NbdReader, bitmap: bytes) -> None:
        self._reader, self._bitmap = reader, bitmap

    @property
    def size(self) -> int:
        return self._reader.size

    def extents(self) -> Iterator[Extent]:
        for changed, blocks in groupby(range(-(-self.size // _BLOCK)), self._changed):
            run = list(blocks)
            begin, end = run[0] * _BLOCK, min((run[-1] + 1) * _BLOCK, self.size)
            kind = ExtentKind.DATA if changed else ExtentKind.UNCHANGED
            yield Extent(offset=begin, length=end - begin, kind=kind)

    def read(self, offset: int, length: int) -> bytes:
        return self._reader.read(offset, length)

    def read_each(self, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        return self._reader.read_each(parts)

    def close(self) -> None:
        self._reader.close()

    def _changed(self, block: int) -> bool:
        """What the bitmap does not tell may have changed."""
        byte = self._bitmap[block // 8] if block // 8 < len(self._bitmap) else 0xFF
        return bool(byte & 0x80 >> block % 8)


def reading(what: str) -> str:
    """What the tasks of streams are called, by the artefact of their export or else by the disk."""
    return f"fedctl read {what}"


def _secured(certificate: str, subject: str) -> "partial[ssl.SSLSocket]":
    """TLS with the very certificate that XAPI announced, under the name that it has."""
    context = ssl.create_default_context(cadata=certificate)
    return partial(_wrapped, context, subject)


def _wrapped(context: ssl.SSLContext, subject: str, stream: socket.socket) -> ssl.SSLSocket:
    return context.wrap_socket(stream, server_hostname=subject)
