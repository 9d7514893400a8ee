"""Figures for Prometheus: counted from rows, for administrators, without any tenant's names."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from controlplane.domain.errors import Denied, Unavailable
from controlplane.domain.operation import OperationState, Problem, StepState
from controlplane.store.settings import Lag
from tests.api.world import FEDERATION, World

PATH = f"{FEDERATION}/metrics"
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def samples(text):
    return {
        (s.name, *s.labels.values()): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_operations_steps_and_what_waits_are_counted_from_the_rows(w: World):
    before = samples(w.http.get(PATH).text)
    operation = w.operation(w.http.post(f"{w.site_path(w.site())}/verify"))
    with w.store.begin() as tx:
        tx.operations.update(operation.id, state=OperationState.RUNNING, started_at=NOW)
        tx.operations.begin_step(operation.id, "look", NOW)
        tx.operations.begin_step(operation.id, "look", NOW)
        tx.operations.end_step(operation.id, "look", StepState.OK, NOW)
        done = {"bytesRead": 4096, "providerSeconds": 1.5}
        problem = Problem(code="denied", message="no")
        tx.operations.update(
            operation.id, state=OperationState.FAILED, result=done, problem=problem, ended_at=NOW
        )
    after = samples(w.http.get(PATH).text)

    def grown(*name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert grown("fedctl_operations", "verify-site", "failed") == 1
    assert grown("fedctl_problems_total", "denied", "verify-site") == 1
    assert grown("fedctl_bytes_total", "verify-site", "bytesRead") == 4096
    assert grown("fedctl_operation_seconds_total", "verify-site", "providerSeconds") == 1.5
    assert grown("fedctl_steps_total", "verify-site", "ok") == 1
    assert grown("fedctl_step_retries_total", "verify-site") == 1
    assert grown("fedctl_outbox_items") == 1
    assert after["fedctl_outbox_oldest_age_seconds",] >= 0
    assert grown("fedctl_events_total") > 0


def test_what_sites_failed_is_counted_by_site_and_code(w: World):
    site = w.fresh("par")
    with w.store.begin() as tx:
        tx.site_errors.add(site, Unavailable("away"), NOW)
        tx.site_errors.add(site, Unavailable("still away"), NOW)
        tx.site_errors.add(site, Denied("who?"), NOW)
    told = samples(w.http.get(PATH).text)
    assert told["fedctl_site_errors_total", "unavailable", site] == 2
    assert told["fedctl_site_errors_total", "denied", site] == 1


def test_only_who_may_read_the_whole_log_reads_the_figures(w: World):
    _, client = w.user()
    with client as somebody:
        assert somebody.get(PATH).status_code == 403


def test_no_tenants_names_are_in_the_figures(w: World):
    w.http.post(f"{w.site_path(w.site())}/verify")
    assert "acme" not in w.http.get(PATH).text


def test_how_far_the_vaults_replica_is_behind_is_told_once_there_is_one(w: World):
    assert not any(name[0].startswith("fedctl_replica") for name in samples(w.http.get(PATH).text))
    with w.store.begin() as tx:
        at = datetime.now(UTC) - timedelta(hours=1)
        tx.settings.lag = Lag(at=at, points=3, oldest=at - timedelta(hours=2), troubles=1)
    told = samples(w.http.get(PATH).text)
    assert told["fedctl_replica_points_behind",] == 3
    assert told["fedctl_replica_troubles",] == 1
    age = told["fedctl_replica_round_age_seconds",]
    assert told["fedctl_replica_oldest_age_seconds",] - age == pytest.approx(7200, abs=0.01)
