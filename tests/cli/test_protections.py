"""Recovery points of instances that belong together, as a person asks for them."""

from api.schemas.errors import EXIT
from controlplane.domain.errors import Busy, Invalid
from controlplane.domain.operation import OperationKind
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands


def test_points_are_taken_shown_and_kept_when_nobody_asks_for_more(
    fedctl: Fedctl, web: str, shop: str, hands: Hands
):
    name = web.split("/")[1]
    made = fedctl.ok("protection", "create", f"{shop}/nightly", name, "--max-spread", "5s")
    assert f"next    fedctl protection sync {shop}/nightly" in made.err
    assert "none" in fedctl.ok("protection", "list", "-w", shop).out
    taken = fedctl.ok("protection", "sync", f"{shop}/nightly")
    assert "at most 0.250 s" in taken.out
    assert f"point of {name}" in taken.out
    assert "3.0 GiB new of 6.0 GiB read" in taken.out
    shown = fedctl.ok("protection", "show", f"{shop}/nightly", "-o", "json").json()
    assert shown["spec"] == {"members": [name], "maxSpread": 5.0}
    assert [point["instance"] for point in shown["status"]["points"]] == [name]
    assert "at most 0.250 s" in fedctl.ok("protection", "list", "-w", shop).out
    assert "Deleted" in fedctl.ok("protection", "delete", f"{shop}/nightly", "--yes").err


def test_two_askings_at_once_are_one(fedctl: Fedctl, web: str, shop: str, hands: Hands):
    name = web.split("/")[1]
    fedctl.ok("protection", "create", f"{shop}/nightly", web)
    hands.held.add(OperationKind.TAKE_POINTS)
    said = fedctl.ok("protection", "sync", f"{shop}/nightly", "--no-wait")
    operation = said.out.split()[1]
    again = fedctl("protection", "sync", f"{shop}/nightly")
    assert again.code == EXIT[Busy]
    assert operation.split("/")[1] in again.err
    assert fedctl("protection", "delete", f"{shop}/nightly", "--yes").code == EXIT[Busy]
    fedctl.ok("operation", "cancel", operation)
    assert name in fedctl.ok("protection", "show", f"{shop}/nightly").out


def test_only_instances_of_its_workspace_are_protected(fedctl: Fedctl, web: str, shop: str):
    elsewhere = fedctl("protection", "create", f"{shop}/nightly", "other/web-1")
    assert elsewhere.code == EXIT[Invalid]
    nobody = fedctl("protection", "create", f"{shop}/nightly", "nobody")
    assert nobody.code == EXIT[Invalid]
    assert "nobody" in nobody.err


def test_a_site_says_how_many_snapshots_it_takes(fedctl: Fedctl, sites: tuple[str, str]):
    said = fedctl.ok("site", "limit", sites[0], "--max-snapshots", "2")
    assert "2 snapshots at a time" in said.err
    assert "no limit" in fedctl.ok("site", "limit", sites[0], "--max-snapshots", "none").err
