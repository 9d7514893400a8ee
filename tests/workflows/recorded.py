"""Histories of stories as they were once told, kept to be told again by the stories of today.

A changed story must still decide what runs that began before the change have decided. Set
FEDCTL_RECORD_HISTORIES to a folder and run the tests of this package to record: the first history of
each operation kind and outcome is written, with the wrapped keys of its payloads.
"""

import gzip
import json
import os
import re
from base64 import b64decode, b64encode
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from temporalio.client import WorkflowHistory

from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import SYSTEM_OWNER, KeyName, Purpose, WrappedKey
from tests.workflows.keys import ROWS
from tests.workflows.world import TENANT

_PROCESS = re.compile(r"[0-9]+@")
HISTORIES = Path(__file__).parent / "histories"


def record(name: str, story: type, history: WorkflowHistory) -> None:
    """Keep `history` as `name`, when recording is asked for and none of that name is there."""
    folder = os.environ.get("FEDCTL_RECORD_HISTORIES")
    if not folder:
        return
    path = Path(folder) / f"{name}.json.gz"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        row
        for owner in (TENANT, SYSTEM_OWNER)
        for purpose in (Purpose.TENANT, Purpose.PAYLOAD)
        for row in ROWS.list(purpose, owner)
    ]
    kept = {
        "story": story.__name__,
        "id": history.workflow_id,
        "keys": [
            {
                "id": row.name.id.hex,
                "purpose": row.name.purpose,
                "owner": row.name.owner,
                "version": row.name.version,
                "wrapped": b64encode(row.wrapped).decode(),
                "wrapped_by": row.wrapped_by,
                "created_at": row.created_at.isoformat(),
            }
            for row in rows
        ],
        "history": _nameless(history.to_json_dict()),
    }
    path.write_bytes(gzip.compress(json.dumps(kept).encode(), mtime=0))


def _nameless(value: Any) -> Any:
    """Without the process and machine that told the story, which the SDK writes everywhere."""
    if isinstance(value, dict):
        return {key: _nameless(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_nameless(inner) for inner in value]
    return "worker" if isinstance(value, str) and _PROCESS.match(value) else value


def load(path: Path) -> tuple[str, WorkflowHistory, MemoryKeys]:
    """The story's name, its history, and the keys of its payloads."""
    kept = json.loads(gzip.decompress(path.read_bytes()))
    rows = MemoryKeys()
    for row in kept["keys"]:
        name = KeyName(
            id=UUID(row["id"]),
            purpose=Purpose(row["purpose"]),
            owner=row["owner"],
            version=row["version"],
        )
        rows.put_if_absent(
            WrappedKey(
                name=name,
                wrapped=b64decode(row["wrapped"]),
                wrapped_by=row["wrapped_by"],
                created_at=datetime.fromisoformat(row["created_at"]),
            )
        )
    return kept["story"], WorkflowHistory.from_json(kept["id"], kept["history"]), rows
