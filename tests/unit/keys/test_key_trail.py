"""Uses of keys are audited, also when the database is away for a moment."""

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from controlplane.keys.keyring import Keyring
from controlplane.keys.port import Purpose
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services.assembly import SystemClock
from controlplane.services.keytrail import KeyTrail
from controlplane.store.engine import Store
from controlplane.store.ports import StoredKeys


def test_making_and_opening_a_key_leaves_lines(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'state.db'}")
    store.migrate()
    trail = KeyTrail(store, SystemClock(), process="worker")
    agent = LocalAgent(RootKey(root=uuid4(), material=bytes(32)))
    rows = StoredKeys(store)
    Keyring(agent=agent, rows=rows, observe=trail.observe).current(Purpose.PAYLOAD, "acme")
    Keyring(agent=agent, rows=rows, observe=trail.observe).current(Purpose.PAYLOAD, "acme")
    trail.close()
    with store.read() as tx:
        entries = tx.audit.entries("acme")
    store.close()
    assert {(e.action, e.subject) for e in entries} == {
        ("key.created", "tenant/acme"),
        ("key.created", "payload/acme"),
        ("key.opened", "tenant/acme"),
        ("key.opened", "payload/acme"),
    }
    assert all(e.actor == "worker" and e.at <= datetime.now(UTC) for e in entries)
