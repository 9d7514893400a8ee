"""VMs of the simulated pool: what they may do when, and that a pool goes on where it was."""

from pathlib import Path

import pytest

from drivers.simulators.faults import STEADY
from drivers.simulators.xcpng import XcpngSim
from tests.simulators.xcpng.conftest import Api, eventually
from tests.simulators.xcpng.test_wire import refused


def test_a_vm_goes_on_and_off(api: Api):
    vm = api.vm(api.vdi())
    api.start(vm)
    assert api.xen.VM.get_power_state(vm) == "Running"
    assert refused(lambda: api.start(vm))[0] == "VM_BAD_POWER_STATE"
    assert refused(lambda: api.xen.VM.destroy(vm))[0] == "VM_BAD_POWER_STATE"
    eventually(lambda: api.xen.VM.get_guest_metrics(vm) != "OpaqueRef:NULL")
    api.xen.VM.clean_shutdown(vm)
    assert api.xen.VM.get_power_state(vm) == "Halted"
    assert api.xen.VM.get_guest_metrics(vm) == "OpaqueRef:NULL"
    api.xen.VM.destroy(vm)
    assert refused(lambda: api.xen.VM.get_record(vm))[0] == "HANDLE_INVALID"


def test_a_guest_that_is_not_up_hears_no_shutdown(api: Api):
    vm = api.vm(api.vdi())
    api.start(vm, paused=True)
    api.xen.VM.unpause(vm)
    api.sim.guests.pause(api.xen.VM.get_uuid(vm))
    assert refused(lambda: api.xen.VM.clean_shutdown(vm))[0] == "VM_LACKS_FEATURE"
    api.xen.VM.hard_shutdown(vm)
    assert api.xen.VM.get_power_state(vm) == "Halted"


def test_what_is_blocked_is_refused_before_anything_else(api: Api):
    vm = api.vm(api.vdi())
    api.xen.VM.add_to_blocked_operations(vm, "start", "moved away")
    said = refused(lambda: api.start(vm))
    assert said == ["OPERATION_BLOCKED", vm, "moved away"]
    api.xen.VM.remove_from_blocked_operations(vm, "start")
    api.start(vm)


@pytest.mark.parametrize("operation", ["start", "hard_shutdown"])
def test_one_operation_at_a_time(api: Api, operation: str):
    vm = api.vm(api.vdi())
    with api.sim.pool.operating("VM", vm, "migrate"):
        if operation == "hard_shutdown":
            api.sim.pool.put("VM", vm, power_state="Running")
        call = api.start if operation == "start" else api.xen.VM.hard_shutdown
        assert refused(lambda: call(vm))[0] == "OTHER_OPERATION_IN_PROGRESS"


def test_a_snapshot_is_a_vm_that_does_not_run(api: Api):
    vm = api.vm(api.vdi())
    copy = api.xen.VM.snapshot(vm, "point", [])
    record = api.xen.VM.get_record(copy)
    assert (record["is_a_snapshot"], record["is_a_template"]) == (True, True)
    assert record["other_config"] == {"who": "me"}
    assert record["snapshot_of"] == vm
    assert refused(lambda: api.start(copy))[0] == "VM_IS_SNAPSHOT"


def test_a_template_is_cloned_and_provisioned(api: Api):
    (template,) = api.xen.VM.get_by_name_label("Other install media")
    assert refused(lambda: api.start(template))[0] == "VM_IS_TEMPLATE"
    vm = api.xen.VM.clone(template, "mine")
    assert api.xen.VM.get_is_a_template(vm) is True
    api.xen.VM.provision(vm)
    assert api.xen.VM.get_is_a_template(vm) is False


def test_a_pool_goes_on_where_it_was(tmp_path: Path):
    with XcpngSim(tmp_path / "xcp", profile=STEADY) as sim:
        api = Api(sim)
        vm = api.vm(api.vdi())
        api.start(vm)
        uuid = api.xen.VM.get_uuid(vm)
        url = sim.url
        api.session("close")()
    with XcpngSim(tmp_path / "xcp", profile=STEADY) as sim:
        api = Api(sim)
        assert sim.url == url
        assert api.xen.VM.get_power_state(vm) == "Running"
        assert sim.guests.is_on(uuid)
        api.session("close")()
