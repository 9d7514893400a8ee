"""The vault at the terminal: checks that are followed and exit as they found it, and figures."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from controlplane.domain.finding import Finding, Severity
from controlplane.domain.ids import InstanceId, TenantName
from controlplane.domain.operation import OperationKind
from controlplane.domain.vault import PackState
from controlplane.services.usage import document
from controlplane.vault.census import Measured, Usage, Workload
from tests.api.world import FEDERATION, World
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands

GIB = 1 << 30
LOST = Finding(
    id="VLT07",
    severity=Severity.BLOCKER,
    subject="acme shop/web-1, disk 0",
    remedy="copy it again",
    evidence="damaged 65536 bytes from offset 131072 in 1 recovery point(s): 7d",
)


@pytest.fixture(autouse=True)
def _whole(hands: Hands):
    yield
    hands.damaged.clear()


def test_a_check_without_damage_exits_well(fedctl: Fedctl, w: World, hands: Hands) -> None:
    name = w.fresh("check")
    said = fedctl.ok("vault", "check", "--depth", "full", "--name", name)
    assert "no damage" in said.out
    assert "5.0 GiB" in said.out
    again = fedctl.ok("vault", "check", "--depth", "full", "--name", name, "-o", "json").json()
    assert again["status"]["operation"] == f"check-vault-{name}-1"
    assert name in fedctl.ok("vault", "checks").out


def test_damage_is_printed_with_what_to_do_and_exits_with_ten(
    fedctl: Fedctl, w: World, hands: Hands
) -> None:
    hands.damaged.append(LOST)
    name = w.fresh("check")
    said = fedctl("vault", "check", "--name", name)
    assert said.code == 10
    assert "VLT07  acme shop/web-1, disk 0" in said.err
    assert "offset 131072" in said.err
    assert "next      VLT07: copy it again" in said.err
    assert "Nothing was deleted" in said.err
    assert fedctl("vault", "show", name).code == 10
    machine = fedctl("vault", "show", name, "-o", "json")
    assert machine.json()["status"]["damaged"] is True


def test_a_check_can_be_left_to_itself_and_two_do_not_run_at_once(
    fedctl: Fedctl, w: World, hands: Hands
) -> None:
    hands.held.add(OperationKind.CHECK_VAULT)
    name = w.fresh("check")
    assert f"check-vault-{name}-1" in fedctl.ok("vault", "check", "--name", name, "--no-wait").out
    busy = fedctl("vault", "check", "--name", w.fresh("check"))
    assert busy.code == 8
    assert f"check-vault-{name}-1" in busy.err
    hands.held.clear()
    fedctl.ok("operation", "watch", f"check-vault-{name}-1")


def test_a_share_must_be_one(fedctl: Fedctl) -> None:
    assert fedctl("vault", "check", "--share", "2").code == 2


def test_only_those_who_run_fedctl_may_check_or_see_figures(w: World) -> None:
    _, stranger = w.user("other")
    with stranger:
        for path in ("vault-checks", "vault-stats"):
            assert stranger.get(f"{FEDERATION}/{path}").status_code == 403
        made = stranger.put(f"{FEDERATION}/vault-checks/x", json={"spec": {}})
        assert made.status_code == 403


def test_figures_are_those_of_the_last_check(fedctl: Fedctl, w: World) -> None:
    assert fedctl.ok("vault", "stats").out == ""
    usage = Usage(
        workloads=1, points=2, logical=40 * GIB, referenced=12 * GIB, unique=7 * GIB,
        stored=4 * GIB, exclusive=4 * GIB, freed=3 * GIB, next_new=GIB, next_stored=GIB // 2,
    )  # fmt: skip
    measured = Measured(
        total=usage,
        tenants={TenantName("acme"): usage},
        workloads={
            Workload(
                tenant=TenantName("acme"), domain="acme/shop", instance=InstanceId(UUID(int=7))
            ): usage
        },
        packs={PackState.VERIFIED: 70},
        pack_bytes={PackState.VERIFIED: 5 * GIB},
        waste=GIB,
    )
    with w.store.begin() as tx:
        tx.settings.vault_usage = document(
            measured, at=datetime.now(UTC), by="scheduled", name=lambda _: "acme shop/web-1"
        )
    said = fedctl.ok("vault", "stats")
    assert "tenant acme" in said.out
    assert "acme shop/web-1" in said.out
    assert "3.00" in said.out
    assert "70 verified (5.0 GiB); 1.0 GiB that no recovery point needs" in said.err
    assert "by scheduled" in said.err
    one = fedctl.ok("vault", "stats", "--tenant", "acme", "-o", "json").json()
    assert [each["spec"]["scope"] for each in one] == ["tenant", "workload"]
    assert one[0]["status"]["nextStored"] == GIB // 2
    assert fedctl.ok("vault", "stats", "--tenant", "nobody").out == ""
    labelled = w.http.get(f"{FEDERATION}/vault-stats?labels=scope%3Dtenant&limit=1").json()
    assert [each["metadata"]["name"] for each in labelled["items"]] == ["tenant.acme"]
