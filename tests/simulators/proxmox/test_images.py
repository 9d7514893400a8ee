"""Images on their way into a simulated Proxmox VE site, with real bytes."""

import io
import ssl
import struct
import threading
import zlib
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.disk import DiskFormat
from drivers.simulators.faults import Direction
from drivers.simulators.qcow2 import NotQcow2, Qcow2
from tests.contract.images import CLUSTER, pattern, qcow2
from tests.simulators.proxmox.test_access import refused
from tests.simulators.proxmox.test_vms import bytes_of

RAW = pattern()


class Named(io.BytesIO):
    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def pulled(api, url: str, name: str, digest: str, **more) -> str:
    return api.done(
        api.node.storage("local")("download-url").post(
            content="import",
            filename=name,
            url=url,
            checksum=digest,
            **{"checksum-algorithm": "sha256", **more},
        )
    )


@pytest.mark.parametrize("kind", [DiskFormat.RAW, DiskFormat.QCOW2])
def test_a_pulled_image_becomes_a_disk_with_its_bytes(sim, api, gateway, kind):
    file = gateway.publish(RAW, kind)
    assert pulled(api, file.source.url, f"x.{kind}", file.source.sha256) == "OK"
    [volume] = api.node.storage("local").content.get(content="import")
    assert (volume["volid"], volume["size"]) == (f"local:import/x.{kind}", file.source.length)
    api.vm(scsi0=f"local-zfs:0,import-from=local:import/x.{kind},discard=on")
    assert api.node.qemu(100).config.get()["scsi0"] == (
        "local-zfs:vm-100-disk-0,discard=on,size=3M"
    )
    assert bytes_of(sim, "local-zfs:vm-100-disk-0") == RAW


def test_a_wrong_checksum_or_a_lost_page_fails_the_task_and_leaves_no_file(api, gateway):
    file = gateway.publish(RAW, DiskFormat.RAW)
    assert "checksum mismatch" in pulled(api, file.source.url, "x.raw", "0" * 64)
    assert "download failed" in pulled(api, file.source.url + "x", "x.raw", "0" * 64)
    assert api.node.storage("local").content.get() == []


def test_one_flipped_bit_on_the_way_fails_a_checked_pull(sim, api, gateway):
    file = gateway.publish(RAW, DiskFormat.RAW)
    sim.faults.corrupt(Direction.IN, offset=2 * 1024 * 1024 + 5)
    assert "checksum mismatch" in pulled(api, file.source.url, "x.raw", file.source.sha256)
    assert pulled(api, file.source.url, "x.raw", file.source.sha256) == "OK"


def test_a_pull_over_https_trusts_no_stranger_unless_told_to(sim, api):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "512")
            self.end_headers()
            self.wfile.write(bytes(512))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sim.folder / "api.pem", sim.folder / "api.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        url, digest = f"https://127.0.0.1:{server.server_port}/", sha256(bytes(512)).hexdigest()
        assert "CERTIFICATE_VERIFY_FAILED" in pulled(api, url, "x.raw", digest)
        assert pulled(api, url, "x.raw", digest, **{"verify-certificates": 0}) == "OK"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_checksum_and_algorithm_need_each_other_and_extensions_are_few(api):
    call = api.node.storage("local")("download-url").post
    wrong = refused(
        lambda: call(content="import", filename="x.raw", url="http://127.0.0.1/", checksum="0"),
        400,
        "verification failed",
    )
    assert "checksum-algorithm" in wrong.errors
    wrong = refused(
        lambda: call(content="import", filename="x.img", url="http://127.0.0.1/"), 400, ""
    )
    assert "filename" in wrong.errors


def test_an_upload_in_the_right_order_lands_and_is_checked(sim, api):
    upload = api.node.storage("local").upload.post
    large = RAW * 5  # beyond 10 MiB proxmoxer streams
    for data in (RAW, large):
        upid = upload(
            content="import",
            **{"checksum-algorithm": "sha256", "checksum": sha256(data).hexdigest()},
            filename=Named(data, "x.raw"),
        )
        assert api.done(upid) == "OK"
        assert (sim.folder / "import" / "x.raw").read_bytes() == data
    wrong = upload(
        content="import",
        **{"checksum-algorithm": "sha256", "checksum": "0" * 64},
        filename=Named(RAW, "y.raw"),
    )
    assert "checksum mismatch" in api.done(wrong)
    assert [v["volid"] for v in api.node.storage("local").content.get()] == ["local:import/x.raw"]


def test_an_upload_in_another_order_breaks_off(sim, raw):
    fields = [
        ("filename", ("x.raw", b"abc", "application/octet-stream")),
        ("content", (None, "import")),
    ]
    with pytest.raises(requests.exceptions.ConnectionError):
        raw("POST", "/nodes/pve/storage/local/upload", files=fields)
    assert list((sim.folder / "import").iterdir()) == []
    assert list(sim.folder.glob("upload-*")) == []


def test_import_from_wants_size_zero_and_an_existing_volume(api, gateway):
    file = gateway.publish(RAW, DiskFormat.RAW)
    assert pulled(api, file.source.url, "x.raw", file.source.sha256) == "OK"
    source = "import-from=local:import/x.raw"
    wrong = refused(
        lambda: api.node.qemu.post(vmid=100, scsi0=f"local-zfs:1,{source}"), 400, "verification"
    )
    assert "scsi0" in wrong.errors
    refused(lambda: api.node.qemu.post(vmid=100, scsi0=f"local-zfs:0,{source}x"), 500, "not exist")
    refused(
        lambda: api.node.qemu.post(vmid=100, scsi0="local-zfs:0,import-from=/dev/sda"),
        500,
        "Only root",
    )


def test_a_file_that_is_no_qcow2_fails_the_creation(api, gateway):
    file = gateway.publish(RAW, DiskFormat.RAW)
    assert pulled(api, file.source.url, "x.qcow2", file.source.sha256) == "OK"
    upid = api.node.qemu.post(vmid=100, scsi0="local-zfs:0,import-from=local:import/x.qcow2")
    assert "not in qcow2 format" in api.done(upid)
    assert api.node.qemu.get() == []


def test_a_deleted_volume_is_gone_after_its_task(api, gateway):
    file = gateway.publish(RAW, DiskFormat.RAW)
    assert pulled(api, file.source.url, "x.raw", file.source.sha256) == "OK"
    content = api.node.storage("local").content
    assert content("local:import/x.raw").get()["path"] == "/var/lib/vz/import/x.raw"
    assert api.done(content("local:import/x.raw").delete()) == "OK"
    refused(content("local:import/x.raw").delete, 500, "does not exist")


def compressed(raw: bytes, *, zstd: bool) -> bytes:
    """`raw` as a qcow2 whose clusters are all compressed."""
    plain = bytearray(qcow2(raw))
    (table,) = struct.unpack_from(">Q", plain, 3 * CLUSTER)
    table &= (1 << 62) - 512
    if zstd:
        struct.pack_into(">Q", plain, 72, 1 << 3)
        struct.pack_into(">I", plain, 100, 112)
        plain[104] = 1
    end = bytes(plain[: table + CLUSTER])
    entries, body = [], b""
    for at in range(0, len(raw), CLUSTER):
        cluster = raw[at : at + CLUSTER].ljust(CLUSTER, b"\0")
        if zstd:
            packed = zstandard.ZstdCompressor().compress(cluster)
        else:
            maker = zlib.compressobj(wbits=-12)
            packed = maker.compress(cluster) + maker.flush()
        begin = len(end) + len(body)
        sectors = (begin % 512 + len(packed) - 1) // 512
        entries.append(1 << 62 | sectors << 54 | begin)
        body += packed
    out = bytearray(end + body.ljust(-(-len(body) // 512) * 512, b"\0"))
    struct.pack_into(f">{len(entries)}Q", out, table, *entries)
    return bytes(out)


@settings(max_examples=30)
@given(
    spots=st.lists(st.tuples(st.integers(0, 20 * CLUSTER - 1), st.binary(min_size=1, max_size=99))),
    form=st.sampled_from(["plain", "zlib", "zstd"]),
)
def test_every_qcow2_that_is_written_reads_back(spots, form):
    raw = bytearray(20 * CLUSTER)
    for at, data in spots:
        raw[at : at + len(data)] = data[: len(raw) - at]
    data = bytes(raw)
    file = qcow2(data) if form == "plain" else compressed(data, zstd=form == "zstd")
    back = bytearray(len(data))
    for offset, part in Qcow2(io.BytesIO(file)).clusters():
        back[offset : offset + len(part)] = part
    assert bytes(back) == data


def test_a_truncated_or_foreign_qcow2_is_named():
    file = qcow2(RAW)
    with pytest.raises(NotQcow2, match="truncated"):
        list(Qcow2(io.BytesIO(file[: len(file) // 2])).clusters())
    with pytest.raises(NotQcow2, match="backing"):
        Qcow2(io.BytesIO(file[:8] + struct.pack(">Q", 4096) + file[16:]))
    with pytest.raises(NotQcow2, match="version"):
        Qcow2(io.BytesIO(file[:4] + struct.pack(">I", 9) + file[8:]))
