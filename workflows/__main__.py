"""The worker process: `python -m workflows`. Reads FEDCTL_* settings, stops on SIGTERM."""

import asyncio
import gc
import logging
import signal
import sys
from datetime import timedelta
from uuid import UUID

from temporalio.client import Client

from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.ids import OperationId
from controlplane.logs import write_log
from controlplane.services.assembly import Assembly, SystemClock, assemble, bounds
from controlplane.services.bandwidth import Bandwidth
from controlplane.services.stores import index_folder
from controlplane.settings import Settings
from controlplane.store.engine import Store
from workflows.activities.adoption import AdoptionActivities
from workflows.activities.changes import ChangeActivities
from workflows.activities.checks import CheckActivities
from workflows.activities.control import ControlActivities
from workflows.activities.endings import EndingActivities
from workflows.activities.group_plans import GroupPlanActivities
from workflows.activities.groups import GroupActivities
from workflows.activities.lookups import LookupActivities
from workflows.activities.planning import PlanActivities
from workflows.activities.records import RecordActivities
from workflows.activities.sites import SiteActivities
from workflows.activities.snapshots import SnapshotActivities
from workflows.activities.steps import Steps
from workflows.activities.straight import StraightActivities
from workflows.activities.survey import SurveyActivities
from workflows.activities.sweep import SweepActivities
from workflows.activities.transfer import TransferActivities
from workflows.codec import (
    SealedPayloads,
    client_options,
    wait_until_sealed,
    wait_until_unsealed,
)
from workflows.connections import Connections
from workflows.housekeeping import Housekeeping
from workflows.replica import Replica
from workflows.rounds import side_by_side
from workflows.settling import Settler
from workflows.starter import Starter
from workflows.succession import check_present, outlived
from workflows.telling import TellsOfSteps
from workflows.watching import SiteWatch
from workflows.worker import Hands, build_worker

_log = logging.getLogger(__name__)
_CONNECT_AGAIN = 0.2


def connections(settings: Settings, parts: Assembly) -> Connections:
    """The ways to the sites of one worker; to be closed."""
    return Connections(
        parts.store, parts.secrets.open, SystemClock().now, timeout=settings.provider_timeout
    )


def hands(settings: Settings, parts: Assembly, sites: Connections) -> Hands:
    """All activities over one assembly."""
    now = SystemClock().now
    store = parts.store
    steps = Steps(store, now)
    bandwidth = Bandwidth(store)
    connect = sites.connect
    return Hands(
        records=RecordActivities(store, steps, parts.homes, now),
        lookups=LookupActivities(store),
        endings=EndingActivities(store, now),
        plans=PlanActivities(store, steps, connect, sites.look, now, parts.vault.stands),
        sites=SiteActivities(store, steps, connect, now),
        transfer=TransferActivities(
            store=store,
            steps=steps,
            connect=connect,
            clock=now,
            vault=parts.vault,
            bandwidth=bandwidth,
            uploads=settings.uploads,
            gateway_url=settings.gateway_url,
            image_lifetime=timedelta(seconds=settings.image_lifetime),
        ),
        survey=SurveyActivities(store, steps, sites.look, now),
        sweep=SweepActivities(store, steps, connect, sites.look, now),
        snapshots=SnapshotActivities(store, steps, connect, now),
        changes=ChangeActivities(
            store=store,
            steps=steps,
            connect=connect,
            clock=now,
            vault=parts.vault,
            bandwidth=bandwidth,
        ),
        control=ControlActivities(store, now, cutovers=settings.cutovers_at_once),
        adoption=AdoptionActivities(store, steps, connect, now),
        checks=CheckActivities(store, steps, parts.vault, now),
        straight=StraightActivities(
            store=store,
            steps=steps,
            connect=connect,
            clock=now,
            vault=parts.vault,
            bandwidth=bandwidth,
        ),
        groups=GroupActivities(store, steps, connect, now),
        group_plans=GroupPlanActivities(store, steps, connect, now, parts.vault.stands),
    )


def _tenant_of(store: Store, workflow: str) -> str | None:
    try:
        operation = OperationId(UUID(workflow.partition(".")[0]))
    except ValueError:
        return None
    try:
        with store.read() as tx:
            return tx.operations.get(operation).tenant
    except NotFound:
        return None


async def _connected(settings: Settings, parts: Assembly) -> Client:
    codec = SealedPayloads(parts.keyring, lambda workflow: _tenant_of(parts.store, workflow))
    while True:
        try:
            return await Client.connect(
                settings.temporal_address,
                namespace=settings.temporal_namespace,
                identity="fedctl-worker",
                **client_options(codec),
            )
        except RuntimeError as error:
            _log.info("Temporal at %s does not answer yet: %s", settings.temporal_address, error)
            await asyncio.sleep(_CONNECT_AGAIN)


async def _work(settings: Settings, parts: Assembly, stop: asyncio.Event) -> None:
    """Poll while keys can be opened; wait, without polling, while they cannot."""
    await wait_until_unsealed(parts.agent)
    client = await _connected(settings, parts)
    sites = connections(settings, parts)
    made = hands(settings, parts, sites)
    starter = Starter(parts.store, client, SystemClock().now, bounds=bounds(settings))
    settler = Settler(parts.store, client, made.endings, SystemClock().now)
    keeper = Housekeeping(
        parts.store,
        parts.vault,
        SystemClock().now,
        check_every=timedelta(seconds=settings.vault_check_every),
        check_share=settings.vault_check_share,
    )
    replica = Replica(parts.store, parts.vault, SystemClock().now)
    watch = SiteWatch(
        parts.store,
        sites.look,
        SystemClock().now,
        patience=timedelta(seconds=settings.site_patience),
    )
    stopped = asyncio.ensure_future(stop.wait())
    await check_present(parts.store, parts.lives)
    gc.freeze()  # looking at all that is loaded would hold every step for 0.2 s, now and then
    later = asyncio.ensure_future(outlived(parts.store, parts.lives, stop))
    while not stop.is_set() and not later.done():
        await wait_until_unsealed(parts.agent)
        async with build_worker(
            client,
            made,
            copies=settings.copies_per_worker,
            interceptors=[TellsOfSteps(parts.store)],
        ):
            _log.info("working")
            pause = asyncio.Event()
            telling = asyncio.ensure_future(
                side_by_side(
                    *(each.run(pause) for each in (starter, keeper, settler, watch, replica))
                )
            )
            sealed = asyncio.ensure_future(wait_until_sealed(parts.agent))
            await asyncio.wait({stopped, sealed, later}, return_when=asyncio.FIRST_COMPLETED)
            sealed.cancel()
            pause.set()
            await telling
        # Keys that are sealed, or a worker that ends, leave no session of ours at a site.
        await asyncio.to_thread(sites.close)
    stopped.cancel()
    if later.done():
        later.result()


async def _main() -> None:
    settings = Settings()
    write_log(settings.log_level, settings.log_format)
    logging.getLogger("temporalio").setLevel(logging.ERROR)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)  # six lines a connection otherwise
    parts = assemble(settings, process="worker", index=index_folder(settings))
    parts.store.await_schema()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    work = asyncio.ensure_future(_work(settings, parts, stop))
    waiting = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        await asyncio.wait({work}, timeout=15)
    work.cancel()
    waiting.cancel()
    parts.close()
    if work.done() and not work.cancelled():
        try:
            work.result()
        except Conflict as error:
            sys.exit(str(error))


if __name__ == "__main__":
    asyncio.run(_main())
