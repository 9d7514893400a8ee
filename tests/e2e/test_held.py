"""A worker that was taken for dead goes on: what it still does comes to nothing.

On a whole system with real bytes; a silence of five seconds, and the copies of a move.
"""

import threading
from datetime import timedelta
from typing import Any

import pytest

from drivers.proxmox.driver import ProxmoxDriver
from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, until
from workflows.activities import moving


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("method", "first", "step"), [("cold", 0, "copy 0"), ("warm", 1, "write changes")]
)
def test_a_writer_that_wakes_after_its_successor_writes_no_byte(
    system: System,
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    first: int,
    step: str,
) -> None:
    """The writer that takes what is copied while it is read, and the first one of changes."""
    before = iter(range(first))
    reached, go, opened = threading.Event(), threading.Event(), threading.Event()
    written: list[int] = []
    opening = ProxmoxDriver.open_import

    def held_once(driver: ProxmoxDriver, *args: Any) -> Any:
        if reached.is_set() or next(before, None) is not None:
            return opening(driver, *args)
        reached.set()
        assert go.wait(120), "nobody let it go"
        try:
            writer: Any = opening(driver, *args)
        finally:
            opened.set()
        writer.write = lambda offset, data: written.append(offset)  # told, not done
        return writer

    monkeypatch.setattr(ProxmoxDriver, "open_import", held_once)
    monkeypatch.setattr(moving, "CALLS", timedelta())  # nothing beats for it while it is held
    name = shop.instance(OPENSTACK)
    _, path = shop.begin_move(name, PROXMOX, method=method)
    until(reached.is_set, "a writer is opened")
    begun = next(s for s in system.look(path)["status"]["steps"] if step in s["name"])
    shop.step(path, begun["name"], state="ok")
    go.set()
    assert opened.wait(60)
    status = system.done(path)
    assert all(proof["equal"] for proof in status["result"]["proof"])
    assert written == []
    seen = shop.journal(name).last
    until(lambda: shop.journal(name).last > seen, "the guest writes on")
    assert shop.journal(name).damaged == ()
