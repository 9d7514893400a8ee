"""Calls and answers held against the API schema that Proxmox VE publishes."""

import json
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from drivers.simulators.proxmox import ProxmoxSim

TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": (bool, int),
    "object": dict,
    "array": list,
}
FORMATS = {
    "pve-vmid": r"[1-9]\d{2,8}",
    "pve-configid": r"[A-Za-z][A-Za-z0-9_-]+",
    "pve-storage-id": r"[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]",
    "dns-name": r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?",
    "pve-tag-list": r"[A-Za-z0-9_][A-Za-z0-9_+.-]*([;, ][A-Za-z0-9_][A-Za-z0-9_+.-]*)*",
    "urlencoded": r"[A-Za-z0-9%._~-]*",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    method: str
    path: str
    given: dict[str, str]
    data: Any


def schema() -> dict[str, Any]:
    """The schema by path; skips where the environment does not say where it is."""
    where = os.environ.get("PVE_SCHEMA")
    if not where:
        pytest.skip("PVE_SCHEMA does not say where Proxmox VE's API schema is")
    return _loaded(where)


@cache
def _loaded(where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(nodes: list[dict[str, Any]]) -> None:
        for node in nodes:
            found[node["path"]] = node.get("info", {})
            walk(node.get("children", []))

    walk(json.loads(Path(where).read_text(encoding="utf-8")))
    return found


def watch(sim: ProxmoxSim, calls: list[Call]) -> None:
    """Append every call that succeeds, the same one with the same answer once."""
    known: set[str] = set()

    def observe(method: str, path: str, given: dict[str, str], data: Any) -> None:
        call = Call(method=method, path=path, given=dict(given), data=data)
        shape = re.sub(r"\d+", "0", repr(call))
        if shape not in known:
            known.add(shape)
            calls.append(call)

    sim.node.observers.append(observe)


def faults_in(schema: dict[str, Any], calls: list[Call]) -> list[str]:
    """What the schema has against the calls and their answers, each fault once."""
    assert calls, "nothing was asked"
    return sorted({fault for call in calls for fault in _faults(schema, call)})


def _faults(schema: dict[str, Any], call: Call) -> list[str]:
    template, at = _template(schema, call)
    if template is None:
        return [f"{call.method} {call.path}: no such path"]
    info = schema[template][call.method]
    about = f"{call.method} {template}"
    known = info.get("parameters", {}).get("properties", {})
    given = at | call.given
    out = [
        f"{about}: {name} is missing"
        for name, rule in known.items()
        if not rule.get("optional")
        and "[n]" not in name
        and name not in given
        # an upload's file part is no field of the call
        and not (template.endswith("/upload") and name == "filename")
    ]
    for name, value in given.items():
        rule = known.get(name) or known.get(re.sub(r"\d+$", "[n]", name))
        if rule is None:
            out.append(f"{about}: {name} is not in the schema")
        elif fault := _value_fault(rule, value):
            out.append(f"{about}: {name}={value!r} {fault}")
    return out + [
        f"{about} answers: {f}" for f in _answer_faults(info.get("returns", {}), call.data)
    ]


def _template(schema: dict[str, Any], call: Call) -> tuple[str | None, dict[str, str]]:
    best: tuple[str | None, dict[str, str]] = (None, {})
    for template, info in schema.items():
        if call.method not in info or not (match := _pattern(template).fullmatch(call.path)):
            continue
        if best[0] is None or "{" not in template:
            best = (template, match.groupdict())
    return best


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.sub(r"\{volume\}", "(?P<volume>.+)", template)
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern))


def _value_fault(rule: dict[str, Any], value: str) -> str:
    if fault := _number_fault(rule, value):
        return fault
    if rule.get("enum") and value not in rule["enum"]:
        return "is not in the enumeration"
    if len(value) > int(rule.get("maxLength", 10**9)) or len(value) < int(rule.get("minLength", 0)):
        return "has a wrong length"
    shape = rule.get("format")
    if isinstance(shape, str) and shape in FORMATS and not re.fullmatch(FORMATS[shape], value):
        return f"is no {shape}"
    if isinstance(shape, dict):
        return _property_fault(shape, value)
    return ""


def _number_fault(rule: dict[str, Any], value: str) -> str:
    kind = rule.get("type")
    if kind == "boolean" and value not in {"0", "1"}:
        return "is no boolean"
    if kind in {"integer", "number"} and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        return "is no number"
    low, high = rule.get("minimum"), rule.get("maximum")
    if kind == "integer" and (
        (low is not None and int(value) < int(low)) or (high is not None and int(value) > int(high))
    ):
        return "is out of bounds"
    return ""


def _property_fault(shape: dict[str, Any], value: str) -> str:
    """Keys and enumerations of a property string."""
    default = next((key for key, rule in shape.items() if rule.get("default_key")), None)
    for part in value.split(","):
        key, equals, text = part.partition("=")
        if not equals:
            key, text = default or "", key
        rule = shape.get(key)
        if rule is None:
            return f"has an unknown key {key!r}"
        while "alias" in rule:
            rule = shape[rule["alias"]]
        if rule.get("type") == "boolean" and text not in {"0", "1", "on", "off"}:
            return f"has no boolean for {key}"
        if rule.get("enum") and "keyAlias" not in shape[key] and text not in rule["enum"]:
            return f"has {text!r} for {key}"
    return ""


def _answer_faults(rule: dict[str, Any], data: Any) -> list[str]:
    kind = rule.get("type")
    if kind == "null":
        return [] if data is None else ["something where nothing was promised"]
    # The schema says integer for cluster/nextid; the daemon answers a string.
    if (
        kind in TYPES
        and not isinstance(data, TYPES[kind])
        and not (kind == "integer" and isinstance(data, str))
    ):
        return [f"{type(data).__name__} instead of {kind}"]
    if kind == "array":
        return [f for item in data for f in _answer_faults(rule.get("items", {}), item)]
    out = []
    if isinstance(data, dict):
        for name, wanted in rule.get("properties", {}).items():
            if name not in data:
                if not wanted.get("optional") and "[n]" not in name:
                    out.append(f"{name} is missing")
            elif wanted.get("type") in TYPES and not isinstance(data[name], TYPES[wanted["type"]]):
                out.append(f"{name} is {type(data[name]).__name__}, not {wanted['type']}")
            elif wanted.get("enum") and data[name] not in wanted["enum"]:
                out.append(f"{name} is {data[name]!r}")
    return out
