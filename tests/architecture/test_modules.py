"""What holds for each module of ours."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest

from tests.architecture.sources import PACKAGES, ROOT, modules

LONGEST = 500
UNFINISHED = re.compile(r"NotImplementedError|\b(TODO|FIXME|XXX|HACK)\b")
# Standard modules by which a pure module would touch the world.
WORLDLY = {
    "asyncio",
    "http",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
}
CLOCKS_AND_DICE = {"now", "today", "utcnow", "uuid1", "uuid4"}
PURE = {
    "controlplane.domain": ("controlplane.domain",),
    "controlplane.planning": ("controlplane.domain", "controlplane.planning"),
}


def test_every_package_of_ours_has_modules():
    assert all(modules(package) for package in PACKAGES)


def test_every_module_opens_with_a_sentence():
    without = [
        m.name
        for m in modules(*PACKAGES)
        if not (ast.get_docstring(m.tree) or "").split("\n")[0].endswith(".")
    ]
    assert not without, without


def test_no_module_is_longer_than_five_hundred_lines():
    lengths = {
        m.name: len(m.text.splitlines())
        for m in modules(*PACKAGES)
        if "migrations" not in m.path.parts
    }
    longer = {name: length for name, length in lengths.items() if length > LONGEST}
    assert not longer, longer


def test_nothing_is_left_unfinished():
    found = [
        f"{m.path}:{number}"
        for m in modules(*PACKAGES)
        for number, line in enumerate(m.text.splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not found, found


@pytest.mark.parametrize("package", PURE)
def test_nouns_and_decisions_import_nothing_that_acts(package: str):
    allowed = PURE[package]

    def pure(name: str) -> bool:
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            return top not in WORLDLY
        return any(name == a or name.startswith(f"{a}.") for a in allowed)

    found = {m.name: sorted(n for n in m.imports() if not pure(n)) for m in modules(package)}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize("package", PURE)
def test_nouns_and_decisions_read_no_clock_and_throw_no_dice(package: str):
    found = [
        f"{m.path}:{node.lineno}"
        for m in modules(package)
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute | ast.Name)
        and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
        in CLOCKS_AND_DICE
    ]
    assert not found, found


def test_no_installed_distribution_takes_our_package_names():
    installed = packages_distributions()
    takers = {name: set(installed.get(name, ())) - {"fedctl"} for name in PACKAGES}
    assert {name: who for name, who in takers.items() if who} == {}


def test_there_is_no_other_top_level_package():
    found = {
        path.parent.name
        for path in ROOT.glob("*/__init__.py")
        if not path.parent.name.startswith(".")
    }
    assert found == {*PACKAGES, "tests"}
