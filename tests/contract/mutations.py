"""Answers of a provider made wrong: whole ones that are garbage, and sound ones with one thing amiss."""

import json
import random
import xmlrpc.client as xmlrpc
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

HTML = b"<html><body><h1>It works!</h1></body></html>"
ODD: tuple[object, ...] = (
    None,
    "",
    "zzz",
    -1,
    0,
    2**70,
    1.5,
    True,
    [],
    {},
    ["zzz"],
    {"zzz": "zzz"},
)

Mutation = Callable[[random.Random, bytes], bytes]


def truncated(chance: random.Random, body: bytes) -> bytes:
    return body[: chance.randrange(len(body))] if body else HTML


def another_page(_: random.Random, __: bytes) -> bytes:
    return HTML


def empty(_: random.Random, body: bytes) -> bytes:
    return b"" if body else HTML


def no_text(_: random.Random, body: bytes) -> bytes:
    return b"\xff\xfe\x00" + body


def nested(_: random.Random, __: bytes) -> bytes:
    return b"[" * 200_000


GARBAGE: tuple[Mutation, ...] = (truncated, another_page, empty, no_text, nested)


def amiss(chance: random.Random, body: bytes) -> bytes:
    """A key dropped, or a value changed, somewhere; in the encoding that the body is in."""
    if body.lstrip().startswith(b"<?xml") or b"<methodResponse" in body[:200]:
        return _amiss_in_xmlrpc(chance, body)
    try:
        value = json.loads(body)
    except ValueError:
        return HTML
    return json.dumps(_amiss(chance, value)).encode()


def _amiss_in_xmlrpc(chance: random.Random, body: bytes) -> bytes:
    (value,), _ = xmlrpc.loads(body)
    match value:
        case [True, str(text), *rest] if text.lstrip().startswith("<") and chance.random() < 0.9:
            value = [True, _amiss_in_xml(chance, text), *rest]
        case _:
            value = _amiss(chance, value)
    return xmlrpc.dumps((value,), methodresponse=True, allow_none=True).encode()


def _amiss_in_xml(chance: random.Random, text: str) -> str:
    root = ET.fromstring(text)
    parents = [each for each in root.iter() if len(each)]
    if not parents:
        return text[:-3]
    parent = chance.choice(parents)
    child = chance.choice(list(parent))
    if chance.random() < 0.4:
        parent.remove(child)
    else:
        child.text = chance.choice(["", "zzz", "-1", "999999999999999999999", "1.5", "0"])
    return ET.tostring(root, encoding="unicode")


def _amiss(chance: random.Random, value: Any) -> Any:
    places = list(_places(value))
    if not places:
        return chance.choice(ODD[:8])
    container, key = chance.choice(places)
    if isinstance(container, dict) and chance.random() < 0.4:
        del container[key]
    else:
        odd = chance.choice(ODD)
        container[key] = "zzz" if odd == 2**70 and isinstance(container[key], str) else odd
    return value


def _places(value: Any) -> Any:
    """Every (container, key) below a value."""
    match value:
        case dict():
            for key, each in value.items():
                yield value, key
                yield from _places(each)
        case list():
            for at, each in enumerate(value):
                yield value, at
                yield from _places(each)
