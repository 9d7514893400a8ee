"""Every finding's id is one question of the catalogue, asked where the catalogue says."""

import ast
import re
from collections.abc import Iterator

from api import checklist
from controlplane.planning import checks
from controlplane.planning.checks import CHECKS, GROUPS
from tests.architecture.sources import PACKAGES, modules

CATALOGUE = {"SRC": 12, "GST": 16, "TGT": 11, "PTH": 7, "POL": 7, "APP": 5, "RET": 4}
PREFIXES = {*CATALOGUE, "MAP", "PLN"}
ID = re.compile(r"[A-Z]{3}\d\d")


def emitted() -> Iterator[tuple[str, str]]:
    """Each id that our code names, and the function (with its module's last name) that does."""
    for module in modules(*PACKAGES):
        if module.name == checks.__name__:
            continue
        for top in module.tree.body:
            functions = top.body if isinstance(top, ast.ClassDef) else [top]
            for function in functions:
                for node in ast.walk(function):
                    found = node.value if isinstance(node, ast.Constant) else None
                    if (
                        isinstance(found, str)
                        and ID.fullmatch(found)
                        and found[:3] in PREFIXES
                        and isinstance(function, ast.FunctionDef)
                    ):
                        yield found, f"{module.name.rpartition('.')[2]}.{function.name}"


def test_every_id_is_used_by_exactly_the_functions_that_its_check_names():
    used: dict[str, set[str]] = {}
    for id_, where in emitted():
        used.setdefault(id_, set()).add(where)
    assert used == {check.id: set(check.by) for check in CHECKS.values() if check.by}


def test_the_catalogue_is_whole_and_each_check_looks_or_says_why_not():
    wanted = {f"{group}{n:02}" for group, most in CATALOGUE.items() for n in range(1, most + 1)}
    assert wanted - set(CHECKS) == set()
    assert [c.id for c in CHECKS.values() if bool(c.by) == bool(c.not_yet)] == []


def test_an_id_is_told_once_and_with_known_weights():
    told = [check for group in GROUPS.values() for check in group]
    assert len(told) == len(CHECKS)
    assert [c.id for c in told if not c.weight or set(c.weight) - set("BWI")] == []


def test_what_keeps_two_from_writing_or_a_plan_from_being_another_is_never_waived():
    never = {"SRC01", "SRC07", "SRC12", "RET02", "PLN01", "PLN02", "MAP01", "TGT12"}
    assert [id_ for id_ in sorted(never) if CHECKS[id_].waivable] == []


def test_the_page_of_checks_is_up_to_date():
    assert checklist.PLACE.read_text(encoding="utf-8") == checklist.text(), "run: make docs"
