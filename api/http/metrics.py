"""The figures of the whole installation as Prometheus reads them."""

from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controlplane.store.figures import Figures
from controlplane.store.settings import Lag

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(figures: Figures, now: datetime) -> bytes:
    """Text format 0.0.4. Labels are kinds, states, codes and sites: nothing of a tenant."""
    registry = CollectorRegistry()
    registry.register(_Told(figures, now))
    return generate_latest(registry)


class _Told(Collector):
    def __init__(self, figures: Figures, now: datetime) -> None:
        self._it = figures
        self._now = now

    def collect(self) -> Iterator[Metric]:
        it = self._it
        operations = GaugeMetricFamily(
            "fedctl_operations", "Operations by kind and state.", labels=["kind", "state"]
        )
        for labels, count in it.operations.items():
            operations.add_metric(labels, count)
        yield operations
        for name, text, second, values in (
            ("fedctl_problems", "Operations that ended in a problem, by error code.", "code",
             it.problems),
            ("fedctl_bytes", "Bytes that ended operations moved.", "what", it.bytes),
            ("fedctl_steps", "Steps by state.", "state", it.steps),
            ("fedctl_operation_seconds", "Seconds of ended operations, by where they went.",
             "spent", it.seconds),
        ):  # fmt: skip
            family = CounterMetricFamily(name, text, labels=["kind", second])
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family
        retries = CounterMetricFamily(
            "fedctl_step_retries", "Attempts of steps after their first.", labels=["kind"]
        )
        for kind, count in it.retries.items():
            retries.add_metric([kind], count)
        yield retries
        failed = CounterMetricFamily(
            "fedctl_site_errors",
            "Attempts at a site that failed, by error code.",
            labels=["site", "code"],
        )
        for labels, count in it.site_errors.items():
            failed.add_metric(labels, count)
        yield failed
        yield GaugeMetricFamily("fedctl_outbox_items", "What the engine must be told.", it.untold)
        yield self._age(
            "fedctl_outbox_oldest_age_seconds",
            "Of the oldest; 0 without.",
            it.untold_since,
        )
        yield self._age(
            "fedctl_progress_oldest_age_seconds",
            "Since the copy of a running operation that is silent the longest told how far it is.",
            it.progressed_at,
        )
        yield GaugeMetricFamily(
            "fedctl_vault_damaged",
            "Stored blobs and packs that a recovery point lacks.",
            it.damaged,
        )
        if it.replica is not None:
            yield from self._replica(it.replica)
        yield CounterMetricFamily("fedctl_events", "Committed changes.", it.events)

    def _replica(self, lag: Lag) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "fedctl_replica_points_behind",
            "Recovery points that the vault's replica lacked when a round last ended.",
            lag.points,
        )
        yield self._age(
            "fedctl_replica_oldest_age_seconds",
            "Of the first of them; 0 without.",
            lag.oldest,
        )
        yield GaugeMetricFamily(
            "fedctl_replica_troubles",
            "Objects that could not be copied to the replica in that round.",
            lag.troubles,
        )
        yield self._age(
            "fedctl_replica_round_age_seconds",
            "Since that round ended: grows while the replica is away.",
            lag.at,
        )

    def _age(self, name: str, text: str, since: datetime | None) -> GaugeMetricFamily:
        age = 0.0 if since is None else max((self._now - since).total_seconds(), 0.0)
        return GaugeMetricFamily(name, text, age)
