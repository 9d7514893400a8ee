"""A worker that was taken for dead goes on: what it still does comes to nothing.

On a whole system with real bytes; a silence of five seconds, and the copies of a move.
"""

import threading
from datetime import timedelta
from typing import Any

import pytest

from controlplane.domain.operation import OperationState, StepState
from drivers.proxmox.driver import ProxmoxDriver
from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System, until
from workflows.activities import moving


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("method", "step"), [("cold", "copy 0"), ("warm", "write changes")])
def test_a_writer_that_wakes_after_its_successor_writes_no_byte(
    system: System,
    shop: Shop,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    step: str,
) -> None:
    """The writer that takes what is copied while it is read, and the first one of changes."""
    reached, go, opened = threading.Event(), threading.Event(), threading.Event()
    written: list[int] = []
    opening = ProxmoxDriver.open_import

    def held_once(driver: ProxmoxDriver, *args: Any) -> Any:
        if reached.is_set() or not _is_running(system, step):
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
    try:
        until(reached.is_set, "a writer is opened")
        begun = next(s for s in system.look(path)["status"]["steps"] if step in s["name"])
        shop.step(path, begun["name"], state="ok")
    finally:
        go.set()
    assert opened.wait(60)
    status = system.done(path)
    assert all(proof["equal"] for proof in status["result"]["proof"])
    assert written == []
    seen = shop.journal(name).last
    until(lambda: shop.journal(name).last > seen, "the guest writes on")
    assert shop.journal(name).damaged == ()


def _is_running(system: System, step: str) -> bool:
    with system.parts.store.read() as tx:
        moves = tx.operations.list(states={OperationState.RUNNING})
        steps = [s for move in moves for s in tx.operations.steps(move.id)]
    return any(step in s.name and s.state is StepState.RUNNING for s in steps)
