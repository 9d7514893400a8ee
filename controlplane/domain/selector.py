"""Choosing resources by their labels: `tier=web,cpus>=4,env!=test`."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from controlplane.domain.errors import Invalid


class Op(StrEnum):
    """How a label is compared: `=` knows the wildcard `*`, the order operators want numbers."""

    EQ = "="
    NE = "!="
    GT = ">"
    LT = "<"
    GE = ">="
    LE = "<="


ORDERED = frozenset({Op.GT, Op.LT, Op.GE, Op.LE})
WILDCARD = "*"

_TERM = re.compile(r"\s*([^=!<>,]+?)\s*(==|!=|>=|<=|=|>|<)\s*(.*?)\s*", re.DOTALL)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One condition on labels. `!=` holds also where the key is missing."""

    key: str
    op: Op
    value: str

    def __str__(self) -> str:
        return f"{self.key}{self.op}{self.value}"


Selector: TypeAlias = tuple[Term, ...]


def number(text: str) -> float | None:
    """The number that `text` writes in decimal digits; None for any other text."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def parse_selector(text: str) -> Selector:
    """The terms of `text`, all of which must hold; nothing at all selects everything."""
    if not text.strip():
        return ()
    return tuple(_term(part) for part in text.split(","))


def _term(text: str) -> Term:
    match = _TERM.fullmatch(text)
    if match is None or "\0" in text:
        raise Invalid(
            f"label selector term {text[:80]!r} is not 'key op value': use one of = != > < >= <="
        )
    key, symbol, value = match.groups()
    op = Op.EQ if symbol == "==" else Op(symbol)
    if value[:1] in {"=", "!", "<", ">"}:
        raise Invalid(f"label selector term {text[:80]!r} has two operators: keep one")
    if op is not Op.EQ and WILDCARD in key + value:
        raise Invalid(f"label selector term {text[:80]!r}: the wildcard '*' works with '=' only")
    if op in ORDERED and number(value) is None:
        raise Invalid(f"label selector term {text[:80]!r} compares numbers: give it a number")
    return Term(key=key, op=op, value=value)
