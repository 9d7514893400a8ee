"""Calls, records and errors of driver and simulator against XAPI's own datamodel."""

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from controlplane.domain.disk import MIB
from controlplane.domain.instance import DiskPlace, InstanceSpec, Size
from drivers.simulators.xcpng import calls
from drivers.simulators.xcpng.pool import CLASSES
from drivers.xcpng import client, mapping
from tests.contract.test_xcpng_driver import tag
from tests.simulators.xcpng.conftest import Api

DRIVER = Path(client.__file__).parent
SIMULATOR = Path(calls.__file__).parent
# Codes that XAPI raises and its list does not name.
UNLISTED = {"VM_IS_SNAPSHOT", "VDI_IO_ERROR"}
# What the simulator keeps for itself in a record.
OURS = {"host": {"nbd_port", "certificate"}}


def _file(name: str) -> str:
    where = os.environ.get("XAPI_SCHEMA")
    if not where:
        pytest.skip("XAPI_SCHEMA does not say in which folder XAPI's datamodel is")
    return (Path(where) / name).read_text(encoding="utf-8")


@cache
def datamodel() -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads(_file("xapi-26.1.json"))}


def message(method: str) -> dict[str, Any]:
    cls, _, name = method.removeprefix("Async.").partition(".")
    found = [each for each in datamodel()[cls]["messages"] if each["name"] == name]
    assert found, f"XAPI has no {method}"
    return found[0]


@pytest.mark.parametrize("method", sorted(calls._ACTS))
def test_the_simulator_answers_calls_that_there_are(method: str):
    needed = len(message(method)["params"])
    code = calls._ACTS[method].__code__
    least = needed - sum(not p["required"] for p in message(method)["params"])
    assert code.co_argcount - 1 in range(least, needed + 1)


def test_the_driver_calls_what_there_is():
    datamodel()
    text = "".join(file.read_text(encoding="utf-8") for file in DRIVER.glob("*.py"))
    named = set(re.findall(r'"((?:Async\.)?(?:[A-Z]{2,3}|task|event|network|session)\.\w+)"', text))
    assert {"VM.create", "Async.VDI.copy", "VIF.set_locking_mode", "event.from"} <= named
    for method in named:
        assert message(method)


def test_records_of_the_simulator_have_xapis_fields(api: Api):
    datamodel()
    vm = api.vm(api.vdi())
    api.start(vm)
    api.xen.task.create("mine", "")
    for cls in CLASSES:
        known = {field["name"] for field in datamodel()[cls]["fields"]} | OURS.get(cls, set())
        for row in api.sim.pool.tables[cls].values():
            assert set(row) <= known, f"{cls}: {set(row) - known}"


def test_what_the_driver_asks_to_be_made_has_xapis_fields():
    place = DiskPlace(size=4 * MIB, volume="v")
    spec = InstanceSpec(name="vm", size=Size(cpus=1, memory=256 * MIB), disks=(place,))
    for cls, record in (
        ("VM", mapping.vm_record(tag(), spec)),
        ("VDI", mapping.vdi_record("v", "", 4 * MIB, "sr", {})),
        ("VBD", mapping.vbd_record("vm", "vdi", 0)),
        ("VIF", mapping.vif_record("vm", "net", 0, mac=None, isolated=True)),
    ):
        fields = {field["name"]: field["type"] for field in datamodel()[cls]["fields"]}
        for key, value in record.items():
            assert key in fields, f"{cls}.{key}"
            if fields[key] == "int":
                assert isinstance(value, str), f"{cls}.{key}: integers travel as text"


def test_errors_are_xapis():
    known = set(json.loads(_file("xapi-errors-26.1.json"))) | UNLISTED
    text = "".join(file.read_text(encoding="utf-8") for file in SIMULATOR.glob("*.py"))
    raised = set(re.findall(r'Failure\(\s*"([A-Z0-9_]+)"', text))
    assert len(raised) > 20
    assert {code for code in raised if not code.startswith("SR_BACKEND_FAILURE")} <= known
    named = {code for code in client._BY_CODE if not code.startswith("SR_BACKEND_FAILURE")}
    assert named <= known, named - known
