"""A local directory keeps whole objects or none."""

from datetime import UTC, datetime, timedelta

import pytest

from controlplane.vault.local import LocalObjects
from tests.unit.vault.objects_contract import ObjectsContract


class TestLocalObjects(ObjectsContract):
    @pytest.fixture
    def objects(self, tmp_path):
        return LocalObjects(tmp_path / "store")

    def test_an_upload_that_goes_on_is_not_swept(self, objects):
        left = objects.upload("x")
        now = datetime.now(UTC)
        assert objects.sweep(now - timedelta(hours=1)) == 0
        assert objects.sweep(now + timedelta(hours=1)) == 1
        left.abort()
