"""Whether labels satisfy a selector, for kinds that are not rows of the store."""

import operator
import re
from collections.abc import Mapping

from controlplane.domain.selector import WILDCARD, Op, Selector, Term, number

_ORDER = {Op.GT: operator.gt, Op.LT: operator.lt, Op.GE: operator.ge, Op.LE: operator.le}


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """All terms hold for `labels`."""
    return all(_holds(term, labels) for term in selector)


def _holds(term: Term, labels: Mapping[str, str]) -> bool:
    if term.op is Op.NE:
        return labels.get(term.key) != term.value
    if term.op is Op.EQ:
        key, value = _pattern(term.key), _pattern(term.value)
        return any(key.fullmatch(k) and value.fullmatch(v) for k, v in labels.items())
    found, wanted = number(labels.get(term.key, "")), number(term.value)
    return found is not None and wanted is not None and bool(_ORDER[term.op](found, wanted))


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.split(WILDCARD)), re.DOTALL)
