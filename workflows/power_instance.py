"""An instance is started, stopped or restarted where it is."""

from dataclasses import replace

from temporalio import workflow

from controlplane.domain.instance import Power
from controlplane.domain.operation import OperationKind, OperationState
from workflows.activities.endings import Outcome
from workflows.activities.lookups import LookupActivities
from workflows.activities.orders import SetPower
from workflows.activities.records import PowerSeen, RecordActivities
from workflows.activities.sites import SiteActivities
from workflows.calls import OperationOrder, ask, call, record, wait
from workflows.ending import concluded
from workflows.saga import Saga, settled

_TURNS: dict[OperationKind, tuple[Power, ...]] = {
    OperationKind.START: (Power.ON,),
    OperationKind.STOP: (Power.OFF,),
    OperationKind.RESTART: (Power.OFF, Power.ON),
}


@workflow.defn
class PowerInstance:
    """What the site shows at the end is what the record says, also after a failure."""

    @workflow.run
    async def run(self, order: OperationOrder) -> str:
        return await concluded(order.operation, self._power)

    async def _power(self, saga: Saga, operation: str) -> Outcome:
        work = await saga.step(
            ask(RecordActivities.take_lease, operation),
            undo=lambda: record(RecordActivities.release_lease, operation),
        )
        home = await record(LookupActivities.home, work)
        for power in _TURNS[home.kind]:
            at = home.at(work, f"power {power}")
            order = SetPower(at=at, power=power, manner=home.manner)
            await settled(call(SiteActivities.set_power, order))
            shown = replace(order, at=home.at(work, f"shown {power}"))
            await wait(SiteActivities.wait_power, shown)
            await record(RecordActivities.power_seen, PowerSeen(work=work, power=power))
        return Outcome(operation=operation, state=OperationState.SUCCEEDED)
