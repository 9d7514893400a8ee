"""Keys of the tests' payloads: always under the same root, so that recorded histories open."""

from uuid import UUID

from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.root import LocalAgent, RootKey
from tests.workflows.world import TENANT
from workflows.codec import SealedPayloads

ROOT = RootKey(root=UUID(int=7), material=bytes(range(32)))
ROWS = MemoryKeys()


def codec(rows: MemoryKeys = ROWS) -> SealedPayloads:
    """Payloads sealed as in production, under keys that live as long as the test session."""
    return SealedPayloads(Keyring(agent=LocalAgent(ROOT), rows=rows), lambda _workflow: TENANT)
