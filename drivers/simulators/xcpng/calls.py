"""The calls that a simulated XAPI answers: those of every class alike, and those of each."""

import threading
import time
import xmlrpc.client as xmlrpc
from collections.abc import Callable
from typing import Any

from drivers.simulators.xcpng import cbt, disks, vms
from drivers.simulators.xcpng.pool import CLASSES, NULL, Failure, Pool, Row

Act = Callable[..., Any]
_CONFIG = ("other_config", "blocked_operations", "platform")
_LONGEST_WAIT = 30.0
_SETTABLE = {
    "VM": ("name_label", "name_description", "ha_restart_priority", "is_a_template"),
    "VDI": ("name_label", "name_description"),
    "network": ("name_label", "name_description"),
    "SR": ("name_label",),
    "pool": ("default_SR",),
}


def _task_create(pool: Pool, _session: str, label: str, description: str) -> str:
    return pool.task(label, description)


def _task_destroy(pool: Pool, _session: str, task: str) -> str:
    pool.row("task", task)
    pool.drop("task", task)
    return ""


def _task_cancel(pool: Pool, _session: str, task: str) -> str:
    with pool.lock:
        if pool.row("task", task)["status"] == "pending":
            pool.finish(task, error=["TASK_CANCELLED", task])
        cut = pool.senders.get(task)
    if cut is not None:
        cut()
    return ""


def _logout(pool: Pool, session: str) -> str:
    pool.sessions.pop(session, None)
    return ""


def _scan(pool: Pool, _session: str, sr: str) -> str:
    pool.row("SR", sr)
    return ""


def _unplug(pool: Pool, _session: str, vbd: str) -> str:
    """Cut a reader of the control domain; VMs that run have no disk taken from them here."""
    row = pool.row("VBD", vbd)
    if not row["currently_attached"]:
        raise Failure("DEVICE_ALREADY_DETACHED", vbd)
    if not pool.row("VM", row["VM"])["is_control_domain"]:
        raise Failure("DEVICE_DETACH_REJECTED", "VBD", vbd, "in use by its guest")
    pool.unplug(vbd)
    return ""


def _events(pool: Pool, session: str, classes: list[str], token: str, timeout: str) -> Row:
    """What changed since the token, the latest of each object; waits while there is nothing."""
    if token and not token.isdecimal():
        raise Failure("EVENT_FROM_TOKEN_PARSE_FAILURE", token)
    since = int(token or 0)
    end = time.monotonic() + min(float(timeout), _LONGEST_WAIT)
    with pool.changed:
        while True:
            if session not in pool.sessions:
                raise Failure("SESSION_INVALID", session)
            events = [
                _event(pool, cls, ref, when)
                for (cls, ref), when in sorted(pool.latest.items(), key=lambda kv: kv[1])
                if when > since and _wanted(cls, ref, classes)
            ]
            left = end - time.monotonic()
            if events or not token or left <= 0:
                counts = {cls.lower(): len(rows) for cls, rows in pool.tables.items()}
                return {
                    "events": [event for event in events if token or event["operation"] != "del"],
                    "valid_ref_counts": counts,
                    "token": str(pool.generation),
                }
            pool.changed.wait(min(left, 0.25))


def _wanted(cls: str, ref: str, classes: list[str]) -> bool:
    names = {name.lower() for name in classes}
    return bool(names & {"*", cls.lower(), f"{cls}/{ref}".lower()})


def _event(pool: Pool, cls: str, ref: str, when: int) -> Row:
    row = pool.tables[cls].get(ref)
    event = {"id": when, "timestamp": time.time(), "class": cls.lower(), "ref": ref}
    event["operation"] = "del" if row is None else "mod"
    return event if row is None else event | {"snapshot": row}


_ACTS: dict[str, Act] = {
    "session.logout": _logout,
    "task.create": _task_create,
    "task.destroy": _task_destroy,
    "task.cancel": _task_cancel,
    "event.from": _events,
    "SR.scan": _scan,
    "VDI.create": disks.create,
    "VDI.destroy": disks.destroy,
    "VDI.resize": disks.resize,
    "VDI.snapshot": disks.snapshot,
    "VDI.clone": disks.clone,
    "VDI.copy": disks.copy,
    "VDI.enable_cbt": cbt.enable,
    "VDI.disable_cbt": cbt.disable,
    "VDI.list_changed_blocks": cbt.changed,
    "VDI.data_destroy": cbt.data_destroy,
    "VDI.get_nbd_info": disks.nbd_info,
    "VM.create": vms.create,
    "VM.clone": vms.clone,
    "VM.provision": vms.provision,
    "VM.snapshot": vms.snapshot,
    "VM.destroy": vms.destroy,
    "VM.start": vms.start,
    "VM.hard_shutdown": vms.hard_shutdown,
    "VM.clean_shutdown": vms.clean_shutdown,
    "VM.pause": vms.pause,
    "VM.unpause": vms.unpause,
    "VBD.create": vms.create_vbd,
    "VBD.unplug": _unplug,
    "VIF.create": vms.create_vif,
    "VIF.destroy": vms.destroy_vif,
    "VIF.set_locking_mode": vms.set_locking,
    "network.create": vms.create_network,
    "network.destroy": vms.destroy_network,
}
_COUNTS: dict[str, tuple[int, int]] = {
    "VM.snapshot": (3, 4),
    "VDI.snapshot": (2, 3),
    "VDI.clone": (2, 3),
    "VDI.copy": (3, 5),
}


def answered(pool: Pool, method: str, given: tuple[Any, ...]) -> Any:
    """The value of a call; Failure is XAPI's own kind of no."""
    if method == "session.login_with_password":
        return _login(pool, method, given)
    if not given or not isinstance(given[0], str):
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", method, "1", "0")
    pool.session(given[0])
    if method.startswith("Async."):
        return _later(pool, method.removeprefix("Async."), given)
    act = _act(method)
    _counted(method, act, given)
    if ".get_" in method:
        vms.hear_guests(pool)
        if method.startswith("SR."):
            pool.measure()
        with pool.lock:
            return act(pool, *given)
    try:
        return act(pool, *given)
    finally:
        pool.save()


def _login(pool: Pool, method: str, given: tuple[Any, ...]) -> str:
    if not 2 <= len(given) <= 4:
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", method, "4", str(len(given)))
    if pool.is_user(str(given[0]), str(given[1])):
        return pool.log_in()
    pool.pause(pool.profile.login_failure_seconds)
    raise Failure("SESSION_AUTHENTICATION_FAILED", str(given[0]), "Authentication failure")


def _counted(method: str, act: Act, given: tuple[Any, ...]) -> None:
    needed = act.__code__.co_argcount - 1
    least, most = _COUNTS.get(method, (needed, needed))
    if not least <= len(given) <= most:
        raise Failure("MESSAGE_PARAMETER_COUNT_MISMATCH", method, str(needed), str(len(given)))


def _later(pool: Pool, method: str, given: tuple[Any, ...]) -> str:
    """A task that tells how it went, and what came of it."""
    act = _act(method)
    _counted(method, act, given)
    task = pool.task(f"Async.{method}")

    def work() -> None:
        try:
            value = act(pool, *given)
        except Failure as e:
            pool.finish(task, error=e.description)
        else:
            result = f"<value>{value}</value>" if isinstance(value, str) and value else ""
            pool.finish(task, result=result)
        pool.save()

    threading.Thread(target=work, name=method, daemon=True).start()
    return task


def _act(method: str) -> Act:
    if method in _ACTS:
        return _ACTS[method]
    cls, _, name = method.partition(".")
    if cls in CLASSES and (act := _common(cls, name)):
        return act
    raise Failure("MESSAGE_METHOD_UNKNOWN", method)


_PLAIN: dict[str, Callable[[str], Act]] = {
    "get_all_records": lambda cls: lambda pool, _session: dict(pool.tables[cls]),
    "get_all": lambda cls: lambda pool, _session: list(pool.tables[cls]),
    "get_record": lambda cls: lambda pool, _session, ref: dict(pool.row(cls, ref)),
    "get_by_uuid": lambda cls: lambda pool, _session, uuid: pool.by_uuid(cls, uuid),
    "get_by_name_label": lambda cls: (
        lambda pool, _session, label: pool.where(cls, name_label=label)
    ),
}


def _common(cls: str, name: str) -> Act | None:
    """What every class can: records, fields, maps."""
    if name in _PLAIN:
        return _PLAIN[name](cls)
    verb, _, field = name.partition("_")
    if verb == "get":
        return lambda pool, _session, ref: _field(pool, cls, ref, field)
    if verb == "set" and field in _SETTABLE.get(cls, ()):
        return lambda pool, _session, ref, value: _set(pool, cls, ref, field, value)
    field = field.partition("_")[2]
    if verb == "add" and field in _CONFIG:
        return lambda pool, _session, ref, key, value: _add(pool, (cls, ref, field), key, value)
    if verb == "remove" and field in _CONFIG:
        return lambda pool, _session, ref, key: _remove(pool, cls, ref, field, key)
    return None


def _field(pool: Pool, cls: str, ref: str, field: str) -> Any:
    row = pool.row(cls, ref)
    if field not in row:
        raise Failure("MESSAGE_METHOD_UNKNOWN", f"{cls}.get_{field}")
    return row[field]


def _set(pool: Pool, cls: str, ref: str, field: str, value: Any) -> str:
    pool.put(cls, ref, **{field: value})
    return ""


def _add(pool: Pool, place: tuple[str, str, str], key: str, value: str) -> str:
    cls, ref, field = place
    with pool.lock:
        kept = pool.row(cls, ref)[field]
        if key in kept:
            raise Failure("MAP_DUPLICATE_KEY", cls, field, ref, key, kept[key], value)
        pool.put(cls, ref, **{field: kept | {key: value}})
    return ""


def _remove(pool: Pool, cls: str, ref: str, field: str, key: str) -> str:
    with pool.lock:
        kept = pool.row(cls, ref)[field]
        pool.put(cls, ref, **{field: {k: v for k, v in kept.items() if k != key}})
    return ""


def rendered(value: Any) -> Any:
    """As XAPI writes values: integers as text, times as dates."""
    match value:
        case bool() | str():
            return value
        case int():
            return str(value)
        case dict():
            return {str(key): _dated(str(key), each) for key, each in value.items()}
        case list() | tuple():
            return [rendered(each) for each in value]
        case None:
            return NULL
        case _:
            return value


def _dated(key: str, value: Any) -> Any:
    dates = {"created", "finished", "snapshot_time", "last_updated", "timestamp"}
    if key in dates and isinstance(value, float):
        return xmlrpc.DateTime(time.strftime("%Y%m%dT%H:%M:%SZ", time.gmtime(value)))
    return rendered(value)
