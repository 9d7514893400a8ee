"""A root key without the cost of a passphrase, and everything that is built on it."""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

import pytest

from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import KeyId, KeyName, Purpose
from controlplane.keys.root import LocalAgent, RootKey

ROOT_BYTES = bytes(range(32))


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class World:
    """A keyring and the hands of a test on everything under it."""

    agent: LocalAgent
    root: RootKey
    rows: MemoryKeys = field(default_factory=MemoryKeys)
    clock: Clock = field(default_factory=Clock)
    events: list = field(default_factory=list)

    def keyring(self) -> Keyring:
        return Keyring(
            agent=self.agent,
            rows=self.rows,
            monotonic=self.clock,
            observe=lambda act, name: self.events.append((str(act), str(name.purpose), name.owner)),
        )


@pytest.fixture
def root() -> RootKey:
    return RootKey(root=UUID(int=7), material=ROOT_BYTES)


@pytest.fixture
def world(root: RootKey) -> World:
    return World(agent=LocalAgent(root), root=root)


@pytest.fixture
def tenant_key_name() -> KeyName:
    return KeyName(id=KeyId(uuid4()), purpose=Purpose.TENANT, owner="acme", version=1)
