"""The records in memory keep the contract."""

import pytest

from controlplane.vault.memory import MemoryRecords
from tests.unit.vault.records_contract import RecordsContract


class TestMemoryRecords(RecordsContract):
    @pytest.fixture
    def records(self):
        return MemoryRecords()
