"""Calls and answers held against the API schemas that OVHcloud publishes."""

import json
import os
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from drivers.simulators.ovhcloud import OvhSim

TEXTS = {
    "ipv4": r"\d+(\.\d+){3}",
    "ipBlock": r"[0-9a-f.:]+/\d+",
    "macAddress": r"([0-9a-f]{2}:){5}[0-9a-f]{2}",
    "uuid": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
PLAIN = {"string", "text", "password", *TEXTS}
FILES = ("ovh-dedicated.json", "ovh-vrack.json", "ovh-ip.json", "ovh-auth.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    method: str
    path: str
    query: dict[str, str]
    body: dict[str, Any]
    answer: Any


@dataclass(frozen=True, slots=True)
class Schema:
    operations: dict[tuple[str, str], dict[str, Any]]
    models: dict[str, dict[str, Any]]


def schema() -> Schema:
    """The schemas; skips where the environment does not say where they are."""
    where = os.environ.get("OVH_SCHEMAS")
    if not where:
        pytest.skip("OVH_SCHEMAS does not say where OVHcloud's API schemas are")
    return _loaded(where)


@cache
def _loaded(where: str) -> Schema:
    operations, models = {}, {}
    for file in FILES:
        told = json.loads((Path(where) / file).read_text(encoding="utf-8"))
        models |= told["models"]
        for api in told["apis"]:
            for operation in api["operations"]:
                operations[operation["httpMethod"], api["path"]] = operation
    return Schema(operations, models)


def watch(sim: OvhSim, calls: list[Call]) -> None:
    """Append every call that succeeds, the same one with the same answer once."""
    known: set[str] = set()

    def observe(method: str, path: str, query: dict, body: Any, answer: Any) -> None:
        if path.startswith("/v2/"):
            return  # the second version's schemas are not among those that are published so
        told = json.loads(json.dumps(answer))
        call = Call(method=method, path=path, query=dict(query), body=dict(body), answer=told)
        shape = re.sub(r"\d+", "0", repr(call))
        if shape not in known:
            known.add(shape)
            calls.append(call)

    sim.api.observers.append(observe)


def faults_in(schema: Schema, calls: list[Call]) -> list[str]:
    """What the schemas have against the calls and their answers, each fault once."""
    assert calls, "nothing was asked"
    return sorted({fault for call in calls for fault in _faults(schema, call)})


def _faults(schema: Schema, call: Call) -> list[str]:
    path = _template(schema, call)
    if path is None:
        return [f"{call.method} {call.path}: no such call"]
    operation = schema.operations[call.method, path]
    about = f"{call.method} {path}"
    out = []
    known = {each["name"]: each for each in operation["parameters"] if each.get("name")}
    for name, value in call.query.items():
        rule = known.get(name)
        if rule is None or rule["paramType"] != "query":
            out.append(f"{about}: {name} is not in the schema")
        else:
            out += _value(schema, rule["dataType"], value, f"{about}: {name}", texts=True)
    out += _body(schema, operation, call.body, about)
    if operation["responseType"] == "void":
        return out if call.answer is None else [*out, f"{about} answers though void"]
    return out + _value(schema, operation["responseType"], call.answer, f"{about} answers")


def _body(schema: Schema, operation: dict, body: dict, about: str) -> list[str]:
    given = [each for each in operation["parameters"] if each["paramType"] == "body"]
    whole = [each for each in given if not each.get("name")]
    if whole:
        return _model(schema, whole[0]["dataType"], body, f"{about}: body", partial=True)
    rules = {each["name"]: each for each in given}
    out = [f"{about}: {n} is missing" for n, r in rules.items() if r["required"] and n not in body]
    for name, value in body.items():
        if name not in rules:
            out.append(f"{about}: {name} is not in the schema")
        else:
            out += _value(schema, rules[name]["dataType"], value, f"{about}: {name}")
    return out


def _template(schema: Schema, call: Call) -> str | None:
    found = [
        path
        for method, path in schema.operations
        if method == call.method and re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", path), call.path)
    ]
    return min(found, key=lambda path: path.count("{"), default=None)


def _value(  # noqa: PLR0911  # one line for each kind of value
    schema: Schema,
    kind: str,
    value: Any,
    about: str,
    *,
    texts: bool = False,
    partial: bool = False,
) -> list[str]:
    if kind.endswith("[]"):
        if not isinstance(value, list):
            return [f"{about} {type(value).__name__}, not a list"]
        return [f for each in value for f in _value(schema, kind[:-2], each, about)]
    if match := re.fullmatch(r"map\[string\](.+)", kind):
        if not isinstance(value, dict):
            return [f"{about} {type(value).__name__}, not a map"]
        return [f for each in value.values() for f in _value(schema, match[1], each, about)]
    if kind in {"long", "double"}:
        good = type(value) is int or (texts and str(value).isdecimal())
        return [] if good else [f"{about} {value!r}, no {kind}"]
    if kind == "boolean":
        return [] if isinstance(value, bool) else [f"{about} {value!r}, no boolean"]
    if kind == "datetime":
        return _datetime(value, about)
    if kind in PLAIN:
        good = isinstance(value, str) and re.fullmatch(TEXTS.get(kind, r"(?s).*"), value)
        return [] if good else [f"{about} {value!r}, no {kind}"]
    model = schema.models[kind]
    if "enum" in model:
        return [] if value in model["enum"] else [f"{about} {value!r}, not in {kind}"]
    return _model(schema, kind, value, about, partial=partial)


def _datetime(value: Any, about: str) -> list[str]:
    try:
        return [] if datetime.fromisoformat(value).tzinfo else [f"{about} {value!r}, without zone"]
    except (TypeError, ValueError):
        return [f"{about} {value!r}, no datetime"]


def _model(
    schema: Schema, kind: str, value: Any, about: str, *, partial: bool = False
) -> list[str]:
    if not isinstance(value, dict):
        return [f"{about} {type(value).__name__}, not {kind}"]
    rules = schema.models[kind]["properties"]
    out = [f"{about}: {name} is not in {kind}" for name in value if name not in rules]
    for name, rule in rules.items():
        if name not in value:
            if not partial:
                out.append(f"{about}: {name} is missing of {kind}")
        elif partial and rule.get("readOnly"):
            out.append(f"{about}: {name} cannot be written")
        elif value[name] is None:
            out += [] if rule.get("canBeNull") else [f"{about}: {name} is null"]
        else:
            out += _property(schema, rule, value[name], f"{about}: {name}", partial=partial)
    return out


def _property(schema: Schema, rule: dict, value: Any, about: str, *, partial: bool) -> list[str]:
    kind = rule.get("fullType") or rule["type"]
    if match := re.fullmatch(r"complexType\.UnitAndValue<(\w+)>(\[\])?", kind):
        parts = value if match[2] else [value]
        return [
            f
            for each in parts
            for f in (
                _value(schema, match[1], each.get("value"), about)
                + _value(schema, "string", each.get("unit"), about)
            )
        ]
    return _value(schema, kind, value, about, partial=partial)
