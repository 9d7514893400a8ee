"""The small languages inside Proxmox VE's parameters: property strings, sizes, types, refusals."""

import re
from collections.abc import Mapping

GIB = 1 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
DRIVE = re.compile(r"(scsi([0-9]|[12][0-9]|30)|virtio([0-9]|1[0-5])|sata[0-5]|ide[0-3]|efidisk0)")
UNUSED = re.compile(r"unused\d+")
NIC = re.compile(r"net([0-9]|[12][0-9]|3[01])")
_CONFIG_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]+")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_\-+.]*")
_DNS_NAME = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*"
    r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
)
_MAC = re.compile(r"[0-9a-fA-F][02468aceACE](:[0-9a-fA-F]{2}){5}")

_BOOLEAN = frozenset(
    {"onboot", "protection", "acpi", "kvm", "tablet", "template", "numa", "start", "force"}
    | {"purge", "destroy-unreferenced-disks", "skiplock", "vmstate", "verify-certificates"}
    | {"current", "full", "forceStop", "keepActive", "overrule-shutdown", "freeze", "ciupgrade"}
)
_INTEGER = frozenset(
    {"vmid", "cores", "sockets", "vcpus", "balloon", "timeout", "newid", "limit", "start-at"}
    | {"cpuunits", "shares", "migrate_downtime"}
)
_TEXT = frozenset(
    {"name", "description", "tags", "memory", "scsihw", "ostype", "boot", "bootdisk", "bios"}
    | {"agent", "cpu", "machine", "vga", "lock", "ciuser", "cipassword", "citype", "cicustom"}
    | {"sshkeys", "nameserver", "searchdomain", "smbios1", "hookscript", "hotplug", "rng0"}
    | {"startup", "args", "vmgenid", "serial0", "serial1", "keyboard", "cpulimit"}
)
CONFIG_KEYS = (
    (_BOOLEAN & {"onboot", "protection", "acpi", "kvm", "tablet", "template", "numa"})
    | (_INTEGER & {"cores", "sockets", "vcpus", "balloon", "cpuunits", "shares"})
    | _TEXT
    | {"freeze", "ciupgrade"}
)
_LOCKS = frozenset(
    {"backup", "clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete"}
    | {"suspending", "suspended"}
)


class Refused(Exception):
    """An answer other than 200: the reason phrase, and the errors map of a 400."""

    def __init__(self, code: int, reason: str, errors: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.code, self.reason, self.errors = code, reason, dict(errors or {})


class Fails(Exception):
    """A task's work failed; the text becomes its exit status."""


def invalid(**errors: str) -> Refused:
    return Refused(
        400,
        "Parameter verification failed.",
        {key.replace("__", "-"): v for key, v in errors.items()},
    )


def is_config_key(key: str) -> bool:
    return bool(
        key in CONFIG_KEYS
        or DRIVE.fullmatch(key)
        or UNUSED.fullmatch(key)
        or NIC.fullmatch(key)
        or re.fullmatch(r"ipconfig\d+|serial[0-3]|usb\d+", key)
    )


def checked(parameters: Mapping[str, str], *, required: tuple[str, ...] = ()) -> dict[str, str]:
    """The parameters if each has its type and all required ones are there; else 400."""
    errors = {
        key: "property is missing and it is not optional"
        for key in required
        if key not in parameters
    }
    for key, value in parameters.items():
        if fault := _type_fault(key, value) or _format_fault(key, value):
            errors[key] = fault
    if errors:
        raise invalid(**errors)
    return dict(parameters)


def only(parameters: Mapping[str, str], allowed: frozenset[str]) -> None:
    """400 for a parameter that the schema does not define."""
    errors = {
        key: "property is not defined in schema and the schema does not allow additional properties"
        for key in parameters
        if key not in allowed
    }
    if errors:
        raise invalid(**errors)


def split_list(text: str) -> list[str]:
    return [part for part in re.split(r"[;, \0]+", text) if part]


def normal_tags(text: str) -> str:
    """Lower-cased, sorted, unique, joined with a semicolon."""
    return ";".join(sorted({tag.lower() for tag in split_list(text)}))


def parse_property(text: str, *, default: str) -> dict[str, str]:
    """`a,b=c` -> {default: a, b: c}."""
    out: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        out[key if equals else default] = value if equals else key
    return out


def format_property(values: Mapping[str, str], *, default: str) -> str:
    rest = [f"{key}={value}" for key, value in sorted(values.items()) if key != default]
    return ",".join(([values[default]] if default in values else []) + rest)


def parse_nic(text: str) -> dict[str, str]:
    """`virtio=MAC,bridge=b` or `model=virtio,macaddr=MAC,bridge=b` -> one shape."""
    values = parse_property(text, default="model")
    for model in ("virtio", "e1000", "rtl8139", "vmxnet3", "e1000e"):
        if model in values:
            values["macaddr"] = values.pop(model)
            values["model"] = model
    return values


def format_nic(values: Mapping[str, str]) -> str:
    rest = [f"{k}={v}" for k, v in sorted(values.items()) if k not in {"model", "macaddr"}]
    return ",".join([f"{values['model']}={values['macaddr']}", *rest])


def size_text(size: int) -> str:
    """How Proxmox VE writes a disk's size: in the largest unit that leaves no rest."""
    for unit in ("T", "G", "M", "K"):
        if size and size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return str(size)


def size_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    if match is None:
        raise ValueError(text)
    return (
        int(float(match[1]) * _UNITS[match[2]])
        if "." in match[1]
        else int(match[1]) * _UNITS[match[2]]
    )


def _type_fault(key: str, value: str) -> str:
    if key in _BOOLEAN and value not in {"0", "1"} and not (key == "start" and value.isdecimal()):
        return f"type check ('boolean') failed - got '{value}'"
    if key in _INTEGER and not re.fullmatch(r"-?\d+", value):
        return f"type check ('integer') failed - got '{value}'"
    if key == "vmid" and not 100 <= int(value) <= 999999999:
        return "value must have a minimum value of 100"
    longest = {"description": 8192, "snapname": 40}.get(key)
    if longest is not None and len(value) > longest:
        return f"value may only be {longest} characters long"
    return ""


def _format_fault(key: str, value: str) -> str:
    if key == "name" and not _DNS_NAME.fullmatch(value):
        return "invalid format - value does not look like a valid DNS name"
    if key == "snapname" and not _CONFIG_ID.fullmatch(value):
        return f"invalid format - invalid configuration ID '{value}'"
    if key == "lock" and value not in _LOCKS:
        return f"value '{value}' does not have a value in the enumeration"
    if key == "tags" and not all(_TAG.fullmatch(tag) for tag in split_list(value)):
        return f"invalid format - invalid characters in tag '{value}'"
    return _nic_fault(value) if NIC.fullmatch(key) else ""


def _nic_fault(value: str) -> str:
    nic = parse_nic(value)
    fault = ""
    if "model" not in nic:
        fault = "model: property is missing and it is not optional"
    elif "macaddr" in nic and not _MAC.fullmatch(nic["macaddr"]):
        fault = "macaddr: value does not look like a valid unicast MAC address"
    elif nic.get("link_down", "0") not in {"0", "1"}:
        fault = f"link_down: type check ('boolean') failed - got '{nic['link_down']}'"
    return f"invalid format - format error {fault}" if fault else ""
