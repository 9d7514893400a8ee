"""A small disk with known bytes, as image files, and a loopback server that hands them out."""

import struct
import sys
from dataclasses import dataclass
from hashlib import sha256, sha512
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from threading import Thread

from controlplane.domain.disk import KIB, MIB, SECTOR, DiskFormat, ImageSource
from drivers.disks.qcow2_zstd import Qcow2ZstdImage
from tests.disks.frames import Frames

CLUSTER = 64 * KIB


def pattern(size: int = 3 * MIB, seed: int = 7) -> bytes:
    """Bytes with noise, long zero ranges, a lone sector, and noise to the very end."""
    noise = Random(seed).randbytes
    data = bytearray(size)
    data[: 2 * CLUSTER] = noise(2 * CLUSTER)
    data[510:512] = b"\x55\xaa"
    data[size // 2 + 3 * SECTOR : size // 2 + 4 * SECTOR] = noise(SECTOR)
    data[size - CLUSTER - SECTOR :] = noise(CLUSTER + SECTOR)
    return bytes(data)


def qcow2(raw: bytes) -> bytes:
    """`raw` as a qcow2 version 3 file: header, refcounts, one level-1 table, data clusters."""
    per_table = CLUSTER // 8
    clusters = [raw[at : at + CLUSTER].ljust(CLUSTER, b"\0") for at in range(0, len(raw), CLUSTER)]
    tables = -(-len(clusters) // per_table)
    first = 4 + tables  # header, refcount table, refcount block, level 1, then the level-2 tables
    body, entries = [], []
    for cluster in clusters:
        if cluster != bytes(CLUSTER):
            entries.append((first + len(body)) * CLUSTER | 1 << 63)
            body.append(cluster)
        else:
            entries.append(0)
    used = first + len(body)
    assert used <= CLUSTER // 2, "one refcount block is all that is written here"
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        *(b"QFI\xfb", 3, 0, 0, 16, len(raw), 0, tables, 3 * CLUSTER, CLUSTER, 1, 0, 0),
        *(0, 0, 0, 4, 104),
    )
    parts = [
        header,
        struct.pack(">Q", 2 * CLUSTER),
        struct.pack(f">{used}H", *[1] * used),
        struct.pack(f">{tables}Q", *((4 + i) * CLUSTER | 1 << 63 for i in range(tables))),
    ]
    parts += [
        struct.pack(f">{len(part)}Q", *part)
        for part in (entries[i * per_table : (i + 1) * per_table] for i in range(tables))
    ]
    return b"".join(part.ljust(CLUSTER, b"\0") for part in parts) + b"".join(body)


def of_frames(raw: bytes) -> bytes:
    """As the image gateway serves it: each cluster a zstd frame, or plain where that saves little."""
    image = Qcow2ZstdImage(Frames.of(raw))
    return image.read(0, image.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An image file that the gateway serves, and the source that names it."""

    source: ImageSource
    data: bytes


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A site that hangs up in the middle is its own business."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Gateway:
    """Serves published files with HEAD, Range and lengths; on a free port of loopback, if not told."""

    def __init__(self, address: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        files: dict[str, bytes] = {}
        self._files, self._host = files, address[0]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, *, body: bool) -> None:
                data = files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                start, stop, status = 0, len(data), 200
                wanted = self.headers.get("Range", "")
                if wanted.startswith("bytes="):
                    low, _, high = wanted.removeprefix("bytes=").partition("-")
                    start, stop, status = int(low), int(high) + 1 if high else len(data), 206
                part = data[start:stop]
                self.send_response(status)
                self.send_header("Content-Length", str(len(part)))
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Accept-Ranges", "bytes")
                if status == 206:
                    self.send_header(
                        "Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}"
                    )
                self.end_headers()
                if body:
                    self.wfile.write(part)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = _Server(address, Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def publish(self, raw: bytes, format: DiskFormat) -> Published:
        data = {
            DiskFormat.RAW: lambda: raw,
            DiskFormat.QCOW2: lambda: qcow2(raw),
            DiskFormat.QCOW2_ZSTD: lambda: of_frames(raw),
        }[format]()
        path = f"/{sha256(data).hexdigest()[:16]}.{format.called}"
        self._files[path] = data
        return Published(
            source=ImageSource(
                url=f"http://{self._host}:{self._server.server_port}{path}",
                format=format.called,
                length=len(data),
                size=len(raw),
                sha256=sha256(data).hexdigest(),
                sha512=sha512(data).hexdigest(),
            ),
            data=data,
        )

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
