"""Uploads: resumable, checked, and turned into an import."""

import hashlib
import os
from pathlib import Path

import httpx
import pytest

from controlplane.domain.kinds import facts
from controlplane.domain.operation import OperationState
from controlplane.domain.resource import Kind, State
from tests.api.world import IMAGES, STORAGE, World

BYTES = os.urandom(300_000)
QCOW2 = b"QFI\xfb" + BYTES


def at(w: World, name: str) -> str:
    return w.in_tenant(IMAGES, f"image-uploads/{name}")


def begin(w: World, content: bytes = BYTES, **more) -> str:
    name = w.fresh("file")
    spec = {"image": name, "format": "raw", "sizeBytes": len(content), **more}
    made = w.put(at(w, name), spec)
    assert made.status_code == 201, made.text
    return name


def send(w: World, name: str, part: bytes, first: int, total: int) -> httpx.Response:
    headers = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{total}"}
    return w.http.put(f"{at(w, name)}/data", content=part, headers=headers)


def stored(w: World, name: str) -> Path:
    with w.store.read() as tx:
        upload = tx.resources.get(facts(Kind.IMAGE_UPLOAD).key(name, w.tenant, None))
    return w.services.uploads.path(upload)


def test_a_file_comes_in_parts_and_becomes_an_import(w: World):
    name = begin(w, sha256=hashlib.sha256(BYTES).hexdigest())
    assert stat_mode(stored(w, name)) == 0o600
    first = send(w, name, BYTES[:100_000], 0, len(BYTES))
    assert first.status_code == 200
    assert first.json()["status"]["received"] == 100_000
    assert "Fedctl-Operation" not in first.headers
    assert w.http.get(at(w, name)).json()["status"]["received"] == 100_000
    last = send(w, name, BYTES[100_000:], 100_000, len(BYTES))
    assert last.json()["status"]["state"] == "active"
    assert last.json()["status"]["imageRef"] == {"resource": f"images/{name}"}
    operation = w.operation(last)
    assert operation.kind == "import-image"
    assert dict(operation.order) == {
        "upload": stored(w, name).stem,
        "file": stored(w, name).name,
        "format": "raw",
    }
    assert stored(w, name).read_bytes() == BYTES
    image = w.http.get(w.in_tenant(STORAGE, f"images/{name}")).json()
    assert image["status"]["state"] == "pending"
    assert image["spec"]["blockStorageRef"] == {
        "provider": "fedctl.images/v1",
        "resource": f"image-uploads/{name}",
    }
    assert image["spec"]["cpuArchitecture"] == "amd64"


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("offset", [0, 50_000, 200_000])
def test_a_wrong_offset_is_told_the_right_one(w: World, offset: int):
    name = begin(w)
    send(w, name, BYTES[:100_000], 0, len(BYTES))
    wrong = send(w, name, BYTES[offset : offset + 1000], offset, len(BYTES))
    assert wrong.status_code == 409
    assert "goes on at byte 100000" in wrong.json()["detail"]
    assert wrong.json()["meta"]["reason"] == "wrong-offset"


def test_what_broke_off_goes_on_where_it_stopped(w: World):
    name = begin(w)

    def breaks_off():
        yield BYTES[:150_000]
        raise ConnectionError

    headers = {
        "Content-Range": f"bytes 0-{len(BYTES) - 1}/{len(BYTES)}",
        "Content-Length": str(len(BYTES)),
    }
    with pytest.raises(ConnectionError), httpx.Client(base_url=w.url) as client:
        client.put(
            f"{at(w, name)}/data",
            content=breaks_off(),
            headers=headers | {"Authorization": f"Bearer {w.token}"},
        )
    received = await_value(lambda: w.http.get(at(w, name)).json()["status"]["received"])
    assert 0 < received <= 150_000
    rest = send(w, name, BYTES[received:], received, len(BYTES))
    assert rest.status_code == 200, rest.text
    assert stored(w, name).read_bytes() == BYTES


def await_value(read):
    """The first value that is not zero; the server notices the break in its own time."""
    import time

    deadline = time.monotonic() + 10
    while not (value := read()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def test_bytes_behind_what_is_recorded_are_written_again(w: World):
    name = begin(w)
    send(w, name, BYTES[:1000], 0, len(BYTES))
    with stored(w, name).open("ab") as file:
        file.write(b"left by a crash before the record")
    assert send(w, name, BYTES[1000:], 1000, len(BYTES)).status_code == 200
    assert stored(w, name).read_bytes() == BYTES


@pytest.mark.parametrize(
    "header", ["", "bytes=0-9/10", "bytes 0-9/*", "bytes 9-0/10", "bytes 0-300000/300000"]
)
def test_a_range_that_is_none_is_malformed(w: World, header: str):
    name = begin(w)
    answer = w.http.put(f"{at(w, name)}/data", content=b"x", headers={"Content-Range": header})
    assert answer.status_code == 400


def test_a_range_that_contradicts_the_bytes_or_the_size_is_refused(w: World):
    name = begin(w)
    short = w.http.put(
        f"{at(w, name)}/data",
        content=b"x" * 10,
        headers={"Content-Range": f"bytes 0-99/{len(BYTES)}"},
    )
    assert short.status_code == 412
    assert "90 bytes fewer" in short.json()["detail"]
    long = w.http.put(
        f"{at(w, name)}/data",
        content=b"x" * 100,
        headers={"Content-Range": f"bytes 10-19/{len(BYTES)}"},
    )
    assert long.status_code == 412
    other = send(w, name, b"x" * 10, 10, 4242)
    assert other.status_code == 412


@pytest.mark.parametrize(
    ("content", "wished"), [(QCOW2, "auto"), (BYTES, "auto"), (BYTES, "raw"), (QCOW2, "qcow2")]
)
def test_the_import_is_told_what_was_said_of_the_format(w: World, content: bytes, wished: str):
    """A raw disk that was not called one has to look like one: only the import can tell."""
    name = begin(w, content, format=wished)
    done = send(w, name, content, 0, len(content))
    assert w.operation(done).order["format"] == wished


def test_an_image_that_is_no_image_is_refused_and_its_bytes_go(w: World):
    name = begin(w, format="qcow2")
    refused = send(w, name, BYTES, 0, len(BYTES))
    assert refused.status_code == 412
    assert "no qcow2 image" in refused.json()["detail"]
    assert not stored(w, name).exists()
    shown = w.http.get(at(w, name)).json()
    assert shown["status"]["state"] == "error"
    assert "no qcow2 image" in shown["status"]["conditions"][0]["message"]
    assert send(w, name, BYTES, 0, len(BYTES)).status_code == 409
    assert w.http.get(w.in_tenant(STORAGE, f"images/{name}")).status_code == 404


def test_bytes_that_do_not_give_the_digest_are_refused(w: World):
    name = begin(w, sha256="0" * 64)
    assert send(w, name, BYTES, 0, len(BYTES)).status_code == 412
    assert w.http.delete(at(w, name)).status_code == 202
    assert w.http.get(at(w, name)).status_code == 404


def test_an_abandoned_upload_leaves_no_file(w: World):
    name = begin(w)
    file = stored(w, name)
    send(w, name, BYTES[:1000], 0, len(BYTES))
    assert w.http.delete(at(w, name)).status_code == 202
    assert not file.exists()


def test_the_same_upload_again_is_the_same_and_another_file_is_a_conflict(w: World):
    name = begin(w)
    spec = {"image": name, "format": "raw", "sizeBytes": len(BYTES)}
    assert w.put(at(w, name), spec).status_code == 200
    assert w.put(at(w, name), spec | {"sizeBytes": 1}).status_code == 409


def test_more_than_there_is_room_for_is_refused_at_once(w: World):
    spec = {"image": "huge", "format": "raw", "sizeBytes": 40 * 1024**4}
    answer = w.put(at(w, "huge"), spec)
    assert answer.status_code == 507
    assert answer.json()["meta"]["code"] == "exhausted"
    beyond = w.put(at(w, "huge"), spec | {"sizeBytes": 65 * 1024**4})
    assert beyond.status_code == 412


def test_an_upload_whose_last_part_was_not_answered_is_completed_by_asking_again(w: World):
    name = begin(w)
    send(w, name, BYTES[:1000], 0, len(BYTES))
    key = facts(Kind.IMAGE_UPLOAD).key(name, w.tenant, None)
    with w.services.uploads.receiving(key, 1000, len(BYTES)) as receiver:
        receiver.write(BYTES[1000:])  # and then the server is gone
    spec = {"image": name, "format": "raw", "sizeBytes": len(BYTES)}
    again = w.put(at(w, name), spec)
    assert again.status_code == 200
    assert again.json()["status"]["state"] == "active"
    assert w.operation(again).kind == "import-image"


def test_a_full_disk_keeps_what_it_has(w: World, monkeypatch):
    name = begin(w)
    send(w, name, BYTES[:1000], 0, len(BYTES))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("controlplane.services.uploads.os.write", full)
        answer = send(w, name, BYTES[1000:], 1000, len(BYTES))
    assert answer.status_code == 507
    assert send(w, name, BYTES[1000:], 1000, len(BYTES)).status_code == 200


def test_two_writers_do_not_meet_in_one_file(w: World):
    name = begin(w)
    key = facts(Kind.IMAGE_UPLOAD).key(name, w.tenant, None)
    with w.services.uploads.receiving(key, 0, len(BYTES)):
        answer = send(w, name, BYTES, 0, len(BYTES))
        assert answer.status_code == 409
        assert answer.json()["meta"]["code"] == "busy"


def test_an_image_that_is_there_is_not_uploaded_over(w: World):
    name = begin(w)
    send(w, name, BYTES, 0, len(BYTES))
    answer = w.put(at(w, "again"), {"image": name, "format": "raw", "sizeBytes": 5})
    assert answer.status_code == 409


def test_images_are_made_from_uploads_only_and_keep_their_spec(w: World):
    name = begin(w)
    send(w, name, BYTES, 0, len(BYTES))
    path = w.in_tenant(STORAGE, f"images/{name}")
    spec = w.http.get(path).json()["spec"]
    labelled = w.put(path, spec, labels={"os": "debian"})
    assert labelled.status_code == 200
    assert labelled.json()["labels"] == {"os": "debian"}
    assert w.put(path, spec | {"boot": "UEFI"}).status_code == 412
    assert w.put(w.in_tenant(STORAGE, "images/other"), spec).status_code == 412


def test_an_image_stays_while_a_volume_waits_for_its_bytes(w: World):
    name = begin(w)
    done = send(w, name, BYTES, 0, len(BYTES))
    image = w.in_tenant(STORAGE, f"images/{name}")
    assert w.http.delete(image).json()["meta"]["code"] == "busy", "its import runs"
    assert w.http.delete(at(w, name)).status_code == 409, "and needs the file"
    operation = w.operation(done)
    w.end(operation)
    from datetime import UTC, datetime

    with w.store.begin() as tx:
        now = datetime.now(UTC)
        tx.resources.set_state(operation.subject, State.CREATING, now=now)
        tx.resources.set_state(operation.subject, State.ACTIVE, now=now)
        tx.resources.patch_status(operation.subject, {"sizeMB": 3000}, now=now)
    shop = w.workspace()
    small = {"skuRef": {"resource": "skus/seca.rd500"}, "sizeGB": 2}
    source = {"sourceImageRef": {"resource": f"images/{name}"}}
    disk = w.in_workspace(STORAGE, shop, "block-storages/d")
    refused = w.put(disk, small | source)
    assert refused.status_code == 412
    assert "ask for 3 GB" in refused.json()["detail"]
    assert w.put(disk, small | source | {"sizeGB": 3}).status_code == 201
    assert w.http.delete(image).status_code == 409
    assert w.http.delete(disk).status_code == 202
    gone = w.http.delete(image)
    assert gone.status_code == 202
    assert w.operation(gone).kind == "delete-image"
    again = w.http.delete(image)
    assert again.headers["Fedctl-Operation"] == gone.headers["Fedctl-Operation"]
    assert w.http.delete(at(w, name)).status_code == 202


def test_an_image_whose_import_failed_is_uploaded_anew(w: World):
    name = begin(w)
    operation = w.operation(send(w, name, BYTES, 0, len(BYTES)))
    w.end(operation, OperationState.FAILED)
    from datetime import UTC, datetime

    with w.store.begin() as tx:
        now = datetime.now(UTC)
        tx.resources.set_state(operation.subject, State.CREATING, now=now)
        tx.resources.set_state(operation.subject, State.ERROR, now=now)
    second = w.fresh("file")
    spec = {"image": name, "format": "raw", "sizeBytes": len(BYTES)}
    assert w.put(at(w, second), spec).status_code == 201
    again = send(w, second, BYTES, 0, len(BYTES))
    assert again.status_code == 200, again.text
    assert w.operation(again).subject == operation.subject
