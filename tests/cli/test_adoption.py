"""Machines that a site has already, at the terminal and through the API: scanned and adopted."""

from datetime import UTC, datetime
from uuid import uuid4

from controlplane.domain.ids import ResourceId
from controlplane.domain.kinds import facts
from controlplane.domain.operation import OperationKind
from controlplane.domain.resource import Kind
from tests.api.world import World
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands


def test_a_scan_says_what_may_be_adopted_and_what_not(
    fedctl: Fedctl, w: World, hands: Hands
) -> None:
    assert not hands.held
    site = w.site()
    said = fedctl.ok("site", "scan", site)
    assert "104" in said.out
    assert "2 vCPU / 3.0 GiB" in said.out
    assert "SRC08  hostpci0 passes a PCI device through: remove it" in said.err
    assert f"fedctl instance adopt NAME --site {site} --id ID" in said.err
    machines = fedctl.ok("site", "scan", site, "-o", "json").json()["machines"]
    assert [(m["ref"], m["adoptable"]) for m in machines] == [("104", True), ("105", False)]


def test_a_machine_is_adopted_under_a_name_of_ours(fedctl: Fedctl, w: World, hands: Hands) -> None:
    assert not hands.held
    site, shop = w.site(), w.workspace()
    done = fedctl.ok("instance", "adopt", f"{shop}/web-1", "--site", site, "--id", "104")
    assert f"fedctl move {shop}/web-1 --to SITE" in done.err
    shown = fedctl.ok("instance", "show", f"{shop}/web-1", "-o", "json").json()
    assert shown["spec"]["zone"] == site
    assert shown["spec"]["skuRef"]["resource"] == "skus/seca.ss"
    assert shown["extensions"] == {"fedctl:firmware": "uefi"}
    again = fedctl("instance", "adopt", f"{shop}/web-1", "--site", site, "--id", "105")
    assert again.code == 5
    assert "give the machine another name" in again.err
    log = w.http.get("/providers/fedctl.federation/v1/audit-log").text
    assert log.count('"instance.adopt"') == 1


def test_two_adoptions_of_one_machine_do_not_run_side_by_side(
    fedctl: Fedctl, w: World, hands: Hands
) -> None:
    site, shop = w.site(), w.workspace()
    hands.held.add(OperationKind.ADOPT)
    words = ("--site", site, "--id", "7", "--no-wait")
    fedctl.ok("instance", "adopt", f"{shop}/a", *words)
    second = fedctl("instance", "adopt", f"{shop}/b", *words)
    assert second.code == 8
    assert "is held by operation" in second.err


def test_adopting_needs_the_right_on_the_site_and_on_the_workspace(w: World) -> None:
    """Machines of a site may be anybody's, so a tenant's own administrator may not take them."""
    site = w.site()
    rival = w.fresh("rival")
    name, client = w.user(rival)
    spec = {"subs": [name], "roles": ["seca.admin"], "scopes": [{"tenants": ["*"]}]}
    key = facts(Kind.ROLE_ASSIGNMENT).key("all", rival, None)
    with w.store.begin() as tx:
        tx.resources.put(key, id=ResourceId(uuid4()), spec=spec, now=datetime.now(UTC))
    wish = {"tenant": rival, "workspace": "shop", "name": "web-1"}
    with client:
        refused = client.post(f"{w.site_path(site)}/machines/104/adopt", json=wish)
    assert refused.status_code == 403
    gone = w.http.post(
        f"{w.site_path(site)}/machines/104/adopt", json={**wish, "workspace": "nowhere"}
    )
    assert gone.status_code in {403, 404}
    wrong = w.http.post(f"{w.site_path(site)}/machines/104/adopt", json={"name": "web-1"})
    assert wrong.status_code == 412
