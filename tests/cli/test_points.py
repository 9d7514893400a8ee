"""Recovery points at the terminal and through the API: listed, verified, deleted, retained."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, PointId, SiteName
from controlplane.domain.ids import TenantName as Tenant
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind
from controlplane.domain.vault import DiskCopied, PointRecord
from tests.api.world import WORKSPACES, World
from tests.cli.conftest import Fedctl
from tests.cli.hands import Hands

PROTECTION = "/providers/fedctl.protection/v1"
GIB = 1 << 30


def instance_of(w: World, web: str) -> InstanceId:
    workspace, name = web.split("/")
    with w.store.read() as tx:
        return InstanceId(tx.resources.get(facts(Kind.INSTANCE).key(name, w.tenant, workspace)).id)


def taken(w: World, web: str, sequence: int, day: int = 1) -> PointId:
    """A retained point of the instance, as a move leaves it on record."""
    disk = DiskCopied(
        disk=0, size=20 * GIB, chunk=65536, digest="ab" * 32, top=None, chunks=0,
        bytes_read=9, bytes_new=2 * GIB, bytes_stored=GIB,
    )  # fmt: skip
    record = PointRecord(
        point=PointId(uuid4()),
        domain=f"{w.tenant}/{web.split('/', maxsplit=1)[0]}",
        tenant=Tenant(w.tenant),
        instance=instance_of(w, web),
        sequence=sequence,
        head=b"head",
        root="cd" * 32,
        disks=(disk,),
        committed_at=datetime(2026, 11, day, 9, 30, tzinfo=UTC),
    )
    with w.store.begin() as tx:
        tx.vault.adopt(record, packs=(), retained=True)
    return record.point


def test_points_are_listed_shown_verified_and_deleted(
    fedctl: Fedctl, w: World, hands: Hands, web: str
) -> None:
    shop = web.split("/", maxsplit=1)[0]
    assert fedctl.ok("recovery-points", "list", "-w", shop).out == ""
    for number in (1, 2):
        taken(w, web, number, day=number)
    listed = fedctl.ok("recovery-points", "list", "-w", shop).out
    assert f"{web}.1" in listed
    assert "20.0 GiB" in listed
    assert "no retention is set" in listed
    said = fedctl.ok("recovery-points", "show", f"{web}.2")
    assert "ab" * 32 in said.out
    assert "never" in said.out
    done = fedctl.ok("recovery-points", "verify", f"{web}.2")
    assert f"{web}.2 reads back: 1 disk(s) equal." in done.err
    assert "never" not in fedctl.ok("recovery-points", "show", f"{web}.2").out
    unasked = fedctl("recovery-points", "delete", f"{web}.1")
    assert "add --yes to agree" in unasked.err
    fedctl.ok("recovery-points", "delete", f"{web}.1", "--yes")
    left = fedctl.ok("recovery-points", "list", "-w", shop, "-o", "json").json()
    assert [each["metadata"]["name"] for each in left] == [f"{web.split('/')[1]}.2"]
    gone = fedctl("recovery-points", "show", f"{web}.1")
    assert "fedctl recovery-points list" in gone.err


def test_a_point_that_a_kept_copy_equals_is_not_deleted(
    fedctl: Fedctl, w: World, hands: Hands, web: str, sites: tuple[str, str]
) -> None:
    point = taken(w, web, 1)
    copy = ArtefactId(uuid4())
    with w.store.begin() as tx:
        tx.artefacts.intend(
            Artefact(
                id=copy, kind=ArtefactKind.INSTANCE, site=SiteName(sites[1]),
                instance=instance_of(w, web), operation=OperationId(uuid4()), epoch=1,
                state=ArtefactState.INTENDED,
            )
        )  # fmt: skip
        tx.artefacts.set_state(copy, ArtefactState.RETAINED, ref="vm-7", holds=point)
    refused = fedctl("recovery-points", "delete", f"{web}.1", "--yes")
    assert refused.code == 5
    assert f"the copy at {sites[1]} equals it" in refused.err
    assert f"fedctl moves finalize {web}" in refused.err


def test_pages_of_points_go_on_where_the_last_ended(w: World, web: str) -> None:
    for number in (1, 2, 3):
        taken(w, web, number, day=number)
    path = w.in_workspace(PROTECTION, web.split("/", maxsplit=1)[0], "recovery-points")
    first = w.http.get(f"{path}?limit=2").json()
    assert len(first["items"]) == 2
    token = first["metadata"]["skipToken"]
    rest = w.http.get(f"{path}?limit=2&skipToken={token}").json()
    names = [each["metadata"]["name"] for each in (*first["items"], *rest["items"])]
    assert names == sorted(f"{web.split('/')[1]}.{number}" for number in (1, 2, 3))
    assert "skipToken" not in rest["metadata"]


def test_retention_is_set_shown_changed_and_taken_back(
    fedctl: Fedctl, w: World, hands: Hands, web: str
) -> None:
    shop = web.split("/", maxsplit=1)[0]
    taken(w, web, 1)
    said = fedctl.ok("workspace", "retention", shop, "last:3,daily:7")
    assert "kept by last:3,daily:7" in said.err
    kept = fedctl.ok("recovery-points", "show", f"{web}.1", "-o", "json").json()
    assert kept["status"]["kept"] == ["the newest", "last 1 of 3", "daily 1 of 7"]
    fedctl.ok("workspace", "retention", shop, "yearly:1")
    assert "kept by yearly:1" in fedctl.ok("workspace", "retention", shop).err
    document = w.http.get(w.in_tenant(WORKSPACES, f"workspaces/{shop}")).json()
    assert document["extensions"] == {"fedctl:retention": "yearly:1"}
    fedctl.ok("workspace", "retention", shop, "none")
    assert "old copies of their move" in fedctl.ok("workspace", "retention", shop).err


@pytest.mark.parametrize("policy", ["daily", "last:0", "fortnightly:2"])
def test_a_retention_that_is_none_is_refused_with_an_example(
    fedctl: Fedctl, shop: str, policy: str
) -> None:
    refused = fedctl("workspace", "retention", shop, policy)
    assert refused.code == 2
    assert "last:3,daily:7,weekly:4" in refused.err
