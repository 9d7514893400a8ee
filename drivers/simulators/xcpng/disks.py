"""VDIs of a simulated pool: made, copied, frozen, lengthened, destroyed."""

import time
from typing import Any

from drivers.simulators.sparse import copy_sparse, data_ranges
from drivers.simulators.xcpng import cbt
from drivers.simulators.xcpng.pool import NULL, STEP, Failure, Pool, Row

_LARGEST = 2040 << 30
_PART = 1 << 20


def create(pool: Pool, _session: str, args: Row) -> str:
    size = -(-int(args["virtual_size"]) // STEP) * STEP
    with pool.lock:
        pool.row("SR", args["SR"])
        if not 0 < size <= _LARGEST:
            raise Failure("SR_BACKEND_FAILURE_79", "", f"VDI Invalid size [{size}]", "")
        _room(pool, args["SR"], size)
        return made(
            pool,
            size,
            SR=args["SR"],
            name_label=str(args["name_label"]),
            name_description=str(args.get("name_description", "")),
            type=args.get("type", "user"),
            other_config=dict(args.get("other_config", {})),
            read_only=bool(args.get("read_only", False)),
        )


def made(pool: Pool, size: int, **fields: Any) -> str:
    base = {
        "allowed_operations": [],
        "current_operations": {},
        "virtual_size": size,
        "sharable": False,
        "managed": True,
        "missing": False,
        "tags": [],
        "sm_config": {},
        "is_a_snapshot": False,
        "snapshot_of": NULL,
        "snapshot_time": 0.0,
        "cbt_enabled": False,
        "on_boot": "persist",
    }
    ref = pool.add("VDI", **(base | fields))
    with pool.file(ref).open("wb") as file:
        file.truncate(size)
    return ref


def _room(pool: Pool, sr: str, size: int) -> None:
    if pool.faults.disk_full or pool.used() + size > pool.size:
        free = 0 if pool.faults.disk_full else pool.size - pool.used()
        raise Failure("SR_FULL", str(size), str(free), sr)


def destroy(pool: Pool, _session: str, vdi: str) -> str:
    with pool.lock:
        row = pool.row("VDI", vdi)
        if row["current_operations"]:
            raise Failure("OTHER_OPERATION_IN_PROGRESS", "VDI", vdi)
        if pool.in_use(vdi, writing=True):
            raise Failure("VDI_IN_USE", vdi, "destroy")
        for vbd in pool.where("VBD", VDI=vdi):
            pool.drop("VBD", vbd)
        for kept in (pool.file(vdi), pool.file(vdi).with_suffix(".cbt"), cbt.log(pool, vdi)):
            kept.unlink(missing_ok=True)
        pool.drop("VDI", vdi)
    return ""


def resize(pool: Pool, _session: str, vdi: str, size: str) -> str:
    with pool.lock:
        row, wish = pool.row("VDI", vdi), -(-int(size) // STEP) * STEP
        if pool.in_use(vdi, writing=True):
            raise Failure("VDI_IN_USE", vdi, "resize")
        if wish < row["virtual_size"]:
            raise Failure("SR_BACKEND_FAILURE_79", "", "VDI Invalid size [shrinking]", "")
        with pool.file(vdi).open("r+b") as file:
            file.truncate(wish)
        pool.put("VDI", vdi, virtual_size=wish)
    return ""


def snapshot(pool: Pool, _session: str, vdi: str, _driver_params: Row | None = None) -> str:
    """A frozen copy, with the source's name and other_config."""
    with pool.lock:
        row = pool.row("VDI", vdi)
        _room(pool, row["SR"], 0)
        told = {"snapshot_of": vdi, "cbt_enabled": row["cbt_enabled"]}
        copy = _like(pool, row, is_a_snapshot=True, snapshot_time=time.time(), **told)
        copy_sparse(pool.file(vdi), pool.file(copy))
        if row["cbt_enabled"]:
            copy_sparse(cbt.log(pool, vdi), cbt.log(pool, copy))
        return copy


def clone(pool: Pool, _session: str, vdi: str, _driver_params: Row | None = None) -> str:
    with pool.lock:
        row = pool.row("VDI", vdi)
        if pool.in_use(vdi, writing=False):
            raise Failure("VDI_IN_USE", vdi, "clone")
        copy = _like(pool, row)
        copy_sparse(pool.file(vdi), pool.file(copy))
        return copy


def _like(pool: Pool, row: Row, **fields: Any) -> str:
    kept = ("SR", "name_label", "name_description", "type", "other_config", "read_only")
    same = {key: row[key] for key in kept} | {"other_config": dict(row["other_config"])}
    return made(pool, row["virtual_size"], **(same | fields))


def copy(pool: Pool, _session: str, vdi: str, sr: str, _base: str = NULL, into: str = NULL) -> str:
    """All bytes into a VDI that is there, or into a new one on another SR."""
    source = pool.row("VDI", vdi)
    target = into
    if into == NULL:
        pool.row("SR", sr)
        target = _like(pool, source)
    row = pool.row("VDI", target)
    if row["virtual_size"] < source["virtual_size"]:
        sizes = str(row["virtual_size"]), str(source["virtual_size"])
        raise Failure("VDI_TOO_SMALL", target, *sizes)
    with (
        pool.operating("VDI", target, "copy"),
        pool.holding(vdi, "read"),
        pool.holding(target, "write"),
    ):
        pool.pause()
        overwrite(pool, vdi, target)
    return target


def overwrite(pool: Pool, vdi: str, target: str) -> None:
    """The target begins with the source's bytes; what is not data there is zero."""
    length = pool.row("VDI", target)["virtual_size"]
    with pool.file(vdi).open("rb") as reading, pool.file(target).open("r+b") as writing:
        writing.truncate(0)
        writing.truncate(length)
        for begin, size in data_ranges(reading.fileno()):
            for at in range(begin, begin + size, _PART):
                reading.seek(at)
                part = reading.read(min(_PART, begin + size - at))
                writing.seek(at)
                writing.write(part)
                if wait := pool.faults.transfer_seconds(len(part)):
                    time.sleep(wait)


def nbd_info(pool: Pool, session: str, vdi: str) -> list[Row]:
    """Where it can be read; empty when no network has the purpose."""
    row = pool.row("VDI", vdi)
    if row["type"] == "cbt_metadata":
        raise Failure("VDI_INCOMPATIBLE_TYPE", vdi, "cbt_metadata")
    purposes = {p for net in pool.tables["network"].values() for p in net["purpose"]}
    if not purposes & {"nbd", "insecure_nbd"}:
        return []
    host = pool.row("host", pool.only("host"))
    return [
        {
            "exportname": f"/{row['uuid']}?session_id={session}",
            "address": host["address"],
            "port": host["nbd_port"],
            "cert": host["certificate"],
            "subject": "localhost",
        }
    ]
