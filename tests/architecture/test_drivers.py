"""Every registered driver is a driver, has a card that tells the truth, and runs the suite."""

import ast
from importlib import import_module

import pytest

from controlplane.domain.site import Capability, Limits, ProviderKind
from drivers.contract import Driver, capabilities
from drivers.registry import DRIVERS, driver_class
from tests.architecture.sources import ROOT, modules
from tests.contract.cards import card
from tests.contract.suite import DriverContract

KINDS = sorted(DRIVERS)


def suites(kind: ProviderKind) -> list[type[DriverContract]]:
    """The classes in tests/contract/test_<kind>*.py that run the suite against `kind`."""
    found = []
    for path in sorted((ROOT / "tests/contract").glob(f"test_{kind}*.py")):
        module = import_module(f"tests.contract.{path.stem}")
        found += [
            it
            for name, it in vars(module).items()
            if name.startswith("Test")
            and isinstance(it, type)
            and issubclass(it, DriverContract)
            and it.provider == kind
        ]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_driver_runs_the_suite(kind: ProviderKind):
    classes = suites(kind)
    assert classes, f"tests/contract/test_{kind}.py needs a class Test...(DriverContract)"
    assert all(it.driver is not DriverContract.driver for it in classes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_class_is_a_driver_with_limits(kind: ProviderKind):
    cls = driver_class(kind)
    assert issubclass(cls, Driver)
    assert not getattr(cls, "__abstractmethods__", None)
    # Limits may be narrowed for a site, and are then set when the connection is opened.
    assert isinstance(getattr(cls, "limits", None), Limits | property | None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_says_done_for_exactly_what_the_class_declares(kind: ProviderKind):
    facets = card(kind).facets
    assert set(facets) == set(Capability), "one line for each facet, done or exempt"
    assert {c for c, reason in facets.items() if not reason} == capabilities(driver_class(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_exempt_rules_are_tests_of_the_suite(kind: ProviderKind):
    unknown = [r for r in card(kind).rules if not hasattr(DriverContract, f"test_{r}")]
    assert unknown == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_driver_does_not_sleep_or_log(kind: ProviderKind):
    found = [
        f"{m.path}:{node.lineno}"
        for m in modules(f"drivers.{kind}")
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and (node.func.attr == "sleep" or ast.unparse(node.func.value) in {"log", "logger"})
    ]
    assert not found, found
