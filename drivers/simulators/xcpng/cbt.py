"""Changed blocks of a simulated pool: 64 KiB a bit, told between snapshots of a tracked disk.

A log begins when tracking does. Snapshots have that of their moment; between two of different logs
nothing is told.
The simulator compares bytes: a block that was written with what it held is not told, other than by
a real log.
"""

import base64
import json
import secrets
from hashlib import sha256
from pathlib import Path

from drivers.simulators.sparse import data_ranges
from drivers.simulators.xcpng.pool import Failure, Pool

BLOCK = 64 << 10


def enable(pool: Pool, _session: str, vdi: str) -> str:
    with pool.lock:
        if pool.row("VDI", vdi)["is_a_snapshot"]:
            raise Failure("OPERATION_NOT_ALLOWED", "VDI is a snapshot")
        if not pool.row("VDI", vdi)["cbt_enabled"]:
            log(pool, vdi).write_text(secrets.token_hex(8))
        pool.put("VDI", vdi, cbt_enabled=True)
    return ""


def disable(pool: Pool, _session: str, vdi: str) -> str:
    with pool.lock:
        if pool.row("VDI", vdi)["is_a_snapshot"]:
            raise Failure("OPERATION_NOT_ALLOWED", "VDI is a snapshot")
        log(pool, vdi).unlink(missing_ok=True)
        pool.put("VDI", vdi, cbt_enabled=False)
    return ""


def log(pool: Pool, vdi: str) -> Path:
    """Where a disk keeps which log it has."""
    return pool.file(vdi).with_suffix(".log")


def data_destroy(pool: Pool, _session: str, vdi: str) -> str:
    """The bytes go; what changed since is still told."""
    with pool.lock:
        row = pool.row("VDI", vdi)
        if not row["is_a_snapshot"]:
            raise Failure("OPERATION_NOT_ALLOWED", "VDI is not a snapshot")
        if not row["cbt_enabled"]:
            raise Failure("VDI_NO_CBT_METADATA", vdi)
        if pool.in_use(vdi, writing=True):
            raise Failure("VDI_IN_USE", vdi, "data_destroy")
        kept = pool.file(vdi).with_suffix(".cbt")
        kept.write_text(json.dumps(_digests(pool, vdi)))
        pool.file(vdi).unlink(missing_ok=True)
        pool.put("VDI", vdi, type="cbt_metadata")
        for vbd in pool.where("VBD", VDI=vdi):
            pool.drop("VBD", vbd)
    return ""


def changed(pool: Pool, _session: str, before: str, after: str) -> str:
    """A bitmap of the blocks that differ, MSB first, as base64."""
    with pool.lock:
        rows = [pool.row("VDI", vdi) for vdi in (before, after)]
        source = rows[1]["snapshot_of"] if rows[1]["is_a_snapshot"] else after
        tracked = all(row["cbt_enabled"] for row in rows) and rows[0]["snapshot_of"] == source
        if not tracked or log(pool, before).read_text() != log(pool, after).read_text():
            text = "Failed to calculate changed blocks for given VDIs."
            raise Failure("SR_BACKEND_FAILURE_460", "", text, "")
        old, new = _digests(pool, before), _digests(pool, after)
        blocks = -(-rows[1]["virtual_size"] // BLOCK)
    bitmap = bytearray(-(-blocks // 8))
    for block in range(blocks):
        if old.get(str(block)) != new.get(str(block)):
            bitmap[block // 8] |= 0x80 >> block % 8
    return base64.b64encode(bitmap).decode()


def _digests(pool: Pool, vdi: str) -> dict[str, str]:
    """Of the blocks that hold something."""
    kept = pool.file(vdi).with_suffix(".cbt")
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    found = {}
    with pool.file(vdi).open("rb") as file:
        for begin, length in data_ranges(file.fileno()):
            for block in range(begin // BLOCK, -(-(begin + length) // BLOCK)):
                file.seek(block * BLOCK)
                data = file.read(BLOCK)
                if data.strip(b"\0"):
                    found[str(block)] = sha256(data).hexdigest()
    return found
