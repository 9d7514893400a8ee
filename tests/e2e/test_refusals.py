"""What cannot be done is refused in words, and leaves nothing anywhere (the `shop` asserts that).

On a whole system with real processes of Temporal and key agent: some seconds each.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.e2e.images import MIB
from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, free_port


def problem(status: dict[str, Any]) -> str:
    assert status["outcome"] in {"failed", "rolled-back", "blocked"}, status["outcome"]
    told = status.get("problem") or {}
    found = [f"{f['id']} {f['evidence']} {f.get('remedy', '')}" for f in status["findings"]]
    return " ".join([told.get("code", ""), told.get("message", ""), *found])


def refused(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.text


@contextmanager
def silent() -> Iterator[str]:
    """A server that accepts and never answers; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v3"
        server.shutdown(socket.SHUT_RDWR)
        for each in held:
            each.close()


def openstack(system: System, **changed: object) -> dict[str, Any]:
    told = system.look(system.site_path(OPENSTACK))["spec"]
    kept = {key: told[key] for key in ("provider", "region", "endpoint", "country") if key in told}
    secrets = {"application_credential_id": "nobody", "application_credential_secret": "wrong"}
    return {**kept, "credentials": secrets, **changed}


def test_a_site_with_wrong_credentials_is_named(system: System, shop: Shop) -> None:
    status = system.register("wrong-openstack", openstack(system))
    assert "denied" in problem(status)
    assert "wrong-openstack" in problem(status)
    assert "wrong-openstack-secret" not in problem(status)
    gone(system, "wrong-openstack")
    assert shop.http.get(system.site_path(OPENSTACK)).is_success


def test_a_site_that_is_not_there_is_named(system: System, shop: Shop) -> None:
    del shop
    there = f"http://127.0.0.1:{free_port()}/v3"
    status = system.register("far-openstack", openstack(system, endpoint=there))
    assert "unavailable" in problem(status)
    assert "far-openstack" in problem(status)
    gone(system, "far-openstack")


def test_a_site_that_accepts_and_never_answers_is_named(system: System, shop: Shop) -> None:
    """As long as the provider timeout of these tests, three times."""
    del shop
    with silent() as there:
        status = system.register("mute-openstack", openstack(system, endpoint=there))
    assert "unavailable" in problem(status)
    assert "mute-openstack" in problem(status)
    gone(system, "mute-openstack")


def gone(system: System, name: str) -> None:
    assert system.http.delete(system.site_path(name)).is_success


def test_an_unknown_site_is_answered_with_the_known_ones(shop: Shop) -> None:
    image = shop.image()
    told = refused(shop.ask_instance(shop.fresh("web"), image, "nowhere"), 404)
    assert "nowhere" in told
    assert OPENSTACK in told


def test_a_move_to_an_unknown_site_is_refused(shop: Shop) -> None:
    name = shop.instance()
    wish = {**shop.wish(name, "nowhere"), "planOnly": True}
    answer = shop.http.put(shop.move_path(shop.fresh("move")), json={"spec": wish})
    assert "nowhere" in refused(answer, 404)
    assert (shop.home(name), shop.power(name)) == (OPENSTACK, "on")


def test_a_name_that_is_too_long_is_refused(shop: Shop) -> None:
    image = shop.image()
    told = refused(shop.ask_instance("w" * 129, image, OPENSTACK), 412)
    assert "128" in told


def test_a_quota_that_is_used_up_is_said_before_anything_is_made(
    system: System, shop: Shop
) -> None:
    image = shop.image()
    quota = system.sites.openstack.knobs.quota
    before = dict(quota)
    quota["cores"] = 0
    try:
        status = system.ended(shop.ask_instance(shop.fresh("web"), image, OPENSTACK))
    finally:
        quota.update(before)
    assert "quota" in problem(status).lower()
    assert OPENSTACK in problem(status)


def test_words_are_no_image(system: System, shop: Shop) -> None:
    file = shop.folder / "letter.raw"
    file.write_bytes(b"Dear sir, this is no disk. " * 4096)
    name = shop.fresh("letter")
    answer = shop.upload(file, name)
    told = answer.text if not answer.is_success else problem(system.ended(answer))
    assert "image" in told or "sector" in told
    assert shop.http.get(shop.image_path(name)).status_code in {200, 404}
    assert list(system.settings.uploads.glob(f"*{name}*")) == []


def test_an_upload_that_broke_off_goes_on(system: System, shop: Shop) -> None:
    file, name = shop.file(), shop.fresh("image")
    data = file.read_bytes()
    shop.begin_upload(file, name).raise_for_status()
    assert shop.send(name, data[: 3 * MIB], 0, len(data)).is_success
    received = system.look(shop.upload_path(name))["status"]["received"]
    assert received == 3 * MIB
    system.done(shop.send(name, data[received:], received, len(data)))


def test_two_moves_of_one_instance_at_once_are_one(system: System, shop: Shop) -> None:
    name = shop.instance()
    _, first = shop.begin_move(name, PROXMOX)
    wish = {**shop.wish(name, PROXMOX), "planOnly": True}
    answer = shop.http.put(shop.move_path(shop.fresh("move")), json={"spec": wish})
    told = refused(answer, 409)
    assert "move" in told
    system.done(first)
    assert shop.home(name) == PROXMOX
