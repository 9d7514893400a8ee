"""Bytes of the simulated pool: early answers, truth in tasks, frames, VHD, changed blocks, NBD."""

import base64
import socket
import ssl
import struct
from urllib.parse import urlencode, urlsplit

import pytest
import XenAPI

from drivers.simulators.faults import LostAnswer
from drivers.simulators.xcpng.pool import MIB, STEP
from tests.contract.images import pattern
from tests.simulators.xcpng.conftest import Api, eventually
from tests.simulators.xcpng.test_wire import refused

DATA = pattern(4 * MIB)


def filled(api: Api, data: bytes = DATA) -> str:
    vdi = api.vdi(len(data))
    assert api.put(vdi, data) == (200, "success")
    return vdi


def frames(*parts: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<QI", offset, len(data)) + data for offset, data in parts)
    return body + bytes(12)


def test_sizes_are_rounded_up_to_two_mebibytes(api: Api):
    assert int(api.xen.VDI.get_virtual_size(api.vdi(STEP + 1))) == 2 * STEP


def test_what_goes_in_comes_out(api: Api):
    assert api.get(filled(api)) == DATA


def test_frames_change_a_disk_in_place(api: Api):
    vdi = filled(api)
    body = frames((MIB, b"a" * 4096), (8192, b"b" * 8192))
    assert api.put(vdi, body, chunked="true") == (200, "success")
    changed = bytearray(DATA)
    changed[MIB : MIB + 4096], changed[8192:16384] = b"a" * 4096, b"b" * 8192
    assert api.get(vdi) == changed


def test_the_task_fails_behind_a_status_of_200(api: Api):
    vdi = api.vdi()
    assert api.put(vdi, frames((4 * MIB, b"beyond")), chunked="true") == (200, "failure")
    api.sim.faults.fill_disk()
    assert api.put(vdi, DATA[:4096]) == (200, "failure")


def test_a_task_that_was_cancelled_takes_nothing_in(api: Api):
    vdi = filled(api)
    task = api.xen.task.create("put", "")
    api.xen.task.cancel(task)
    query = {"vdi": api.xen.VDI.get_uuid(vdi), "format": "raw", "task_id": task}
    assert api.http("PUT", "/import_raw_vdi", query, bytes(4096))[0] == 200
    assert api.xen.task.get_status(task) == "cancelled"
    assert api.get(vdi) == DATA


def test_an_export_whose_task_is_cancelled_is_cut(api: Api):
    """Before it began, and while its client does not read on."""
    vdi = filled(api, pattern(64 * MIB, seed=3))
    query = {"vdi": api.xen.VDI.get_uuid(vdi), "format": "raw"}
    early, late = api.xen.task.create("get", ""), api.xen.task.create("get", "")
    api.xen.task.cancel(early)
    assert api.http("GET", "/export_raw_vdi", query | {"task_id": early})[2] == b""
    where = urlsplit(api.sim.url)
    context = ssl._create_unverified_context()
    with (
        socket.create_connection((where.hostname, where.port), timeout=10) as plain,
        context.wrap_socket(plain) as stream,
    ):
        asked = urlencode(query | {"task_id": late, "session_id": api.session._session})
        stream.sendall(f"GET /export_raw_vdi?{asked} HTTP/1.1\r\n\r\n".encode())
        assert stream.recv(15) == b"HTTP/1.1 200 OK"
        assert eventually(lambda: api.sim.pool.senders)
        api.xen.task.cancel(late)
        assert eventually(lambda: not api.sim.pool.senders)
    assert api.xen.task.get_status(late) == "cancelled"
    assert not api.sim.pool.in_use(vdi, writing=True)


def test_http_chunks_are_not_taken(api: Api):
    query = {"vdi": api.xen.VDI.get_uuid(api.vdi()), "format": "raw"}
    status, _, _ = api.http(
        "PUT", "/import_raw_vdi", query, b"", **{"Transfer-Encoding": "chunked"}
    )
    assert status == 404


def test_a_broken_export_is_short_and_its_task_tells(api: Api):
    vdi = filled(api)
    task = api.xen.task.create("get", "")
    api.sim.faults.fail(LostAnswer(), method="GET")
    assert len(api.get(vdi, task_id=task)) < len(DATA)
    assert api.ended(task) == "failure"


def test_a_disk_of_a_running_vm_is_in_use_and_its_snapshot_is_not(api: Api):
    vdi = filled(api)
    vm = api.vm(vdi)
    api.start(vm)
    assert api.put(vdi, DATA)[1] == "failure"
    assert api.get(vdi) == b""
    copy = api.xen.VDI.snapshot(vdi, {})
    assert len(api.get(copy)) == len(DATA)
    assert refused(lambda: api.xen.VDI.destroy(vdi))[0] == "VDI_IN_USE"


def test_a_vhd_has_what_the_disk_has(api: Api):
    vdi = filled(api)
    stream = api.get(vdi, format="vhd")
    assert stream[:8] == stream[-512:-504] == b"conectix"
    assert stream[28:32] == b"caml"
    table = struct.unpack_from(">2I", stream, 2048)
    for block, sector in enumerate(table):
        data = stream[sector * 512 + 512 : sector * 512 + 512 + STEP]
        assert data == DATA[block * STEP : (block + 1) * STEP]
    other = api.vdi(len(DATA))
    assert api.put(other, stream, format="vhd") == (200, "success")
    assert api.get(other) == DATA


def test_a_vhd_with_a_base_has_the_blocks_that_changed(api: Api):
    vdi = filled(api)
    base = api.xen.VDI.snapshot(vdi, {})
    assert api.put(vdi, frames((3 * MIB, b"x" * 4096)), chunked="true")[1] == "success"
    delta = api.get(vdi, format="vhd", base=api.xen.VDI.get_uuid(base))
    table = struct.unpack_from(">2I", delta, 2048)
    assert table[0] == 0xFFFFFFFF
    at = table[1] * 512 + 512 + MIB
    assert delta[at : at + 4096] == b"x" * 4096
    assert struct.unpack_from(">I", delta, 60) == (4,)


def test_changed_blocks_are_told_between_snapshots_of_a_tracked_disk(api: Api):
    vdi = filled(api)
    untracked = api.xen.VDI.snapshot(vdi, {})
    api.xen.VDI.enable_cbt(vdi)
    first = api.xen.VDI.snapshot(vdi, {})
    assert api.put(vdi, frames((65536 * 9, b"x" * 4096)), chunked="true")[1] == "success"
    second = api.xen.VDI.snapshot(vdi, {})
    for _ in range(2):
        bitmap = base64.b64decode(api.xen.VDI.list_changed_blocks(first, second))
        assert bitmap == bytes([0, 0b01000000, 0, 0, 0, 0, 0, 0])
        if api.xen.VDI.get_type(first) == "user":
            api.xen.VDI.data_destroy(first)
    assert api.get(first) == b""
    assert refused(lambda: api.xen.VDI.get_nbd_info(first))[0] == "VDI_INCOMPATIBLE_TYPE"
    with pytest.raises(XenAPI.Failure):
        api.xen.VDI.list_changed_blocks(untracked, second)


def test_without_tls_no_export_is_told(api: Api):
    vdi = filled(api)
    (info,) = api.xen.VDI.get_nbd_info(vdi)
    stream = socket.create_connection((info["address"], int(info["port"])), timeout=5)
    assert stream.recv(18)[:8] == b"NBDMAGIC"
    name = info["exportname"].encode()
    stream.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, len(name)) + name)
    assert stream.recv(10) == b""
    stream.close()


def test_an_export_of_another_hosts_storage_is_sent_there(api: Api):
    api.sim.pool.elsewhere = "127.0.0.2"
    query = {"vdi": api.xen.VDI.get_uuid(filled(api)), "format": "raw"}
    status, headers, _ = api.http("GET", "/export_raw_vdi", query)
    assert status == 302
    assert headers["Location"].startswith("https://127.0.0.2:")
    assert eventually(lambda: api.http("GET", "/export_raw_vdi", query)[2] == DATA)
