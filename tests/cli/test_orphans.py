"""What sweeps found, at the terminal and through the API: listed, adopted, released, refused."""

from datetime import UTC, datetime
from uuid import uuid4

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, SiteName
from controlplane.domain.owner import OwnerTag
from tests.api.world import World
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands


def reported(w: World, site: str) -> OwnerTag:
    """A volume of an instance that is not known here, in the report of the site."""
    tag = OwnerTag(
        artefact=ArtefactId(uuid4()),
        instance=InstanceId(uuid4()),
        operation=OperationId(uuid4()),
        epoch=2,
    )
    found = Found(owner=tag, kind=ArtefactKind.VOLUME, ref="vol-3")
    with w.store.begin() as tx:
        tx.orphans.replace(SiteName(site), [found], datetime.now(UTC))
    return tag


def test_an_orphan_is_listed_and_released_on_a_yes_only(
    fedctl: Fedctl, w: World, hands: Hands
) -> None:
    assert not hands.held
    site = w.site()
    tag = reported(w, site)
    [shown] = fedctl.ok("orphans", "list", site, "-o", "json").json()
    assert (shown["kind"], shown["ref"], shown["epoch"]) == ("volume", "vol-3", 2)
    assert shown["artefact"] == str(tag.artefact)
    unasked = fedctl("orphans", "release", site, "vol-3")
    assert unasked.code != 0
    assert "add --yes to agree" in unasked.err
    done = fedctl.ok("orphans", "release", site, "vol-3", "--yes")
    assert f"Released volume vol-3 at {site}" in done.err
    log = w.http.get("/providers/fedctl.federation/v1/audit-log").text
    assert log.count("site.release-orphan") == 1


def test_an_orphan_of_nobody_known_is_not_adopted(fedctl: Fedctl, w: World) -> None:
    site = w.site()
    tag = reported(w, site)
    refused = fedctl("orphans", "adopt", site, str(tag.artefact))
    assert refused.code != 0
    assert f"fedctl orphans release {site} vol-3" in refused.err
    unknown = fedctl("orphans", "release", site, "vol-9", "--yes")
    assert "sweep again" in unknown.err
    path = f"{w.site_path(site)}/orphans"
    assert w.http.post(f"{path}/{uuid4()}/release").status_code == 404
    assert w.http.post(f"{path}/vol-3/release").status_code == 404
