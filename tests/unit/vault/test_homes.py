"""What outlives the database: homes, lives and wrapped keys in the store."""

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from controlplane.domain.errors import Conflict, Integrity
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, SiteName
from controlplane.domain.placement import Home
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.port import KeyId, KeyName, Purpose, WrappedKey
from controlplane.services.vaulting import KeptKeys
from controlplane.vault.homes import Homes
from controlplane.vault.lives import Lives
from tests.unit.vault.support import INSTANCE, TENANT, Seal, World

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


def home(epoch: int, site: str = "par-pve") -> Home:
    return Home(
        tenant=TENANT,
        instance=INSTANCE,
        epoch=epoch,
        site=SiteName(site),
        copy=ArtefactId(UUID(int=epoch)),
        operation=OperationId(UUID(int=100 + epoch)),
        since=AT,
    )


def test_the_newest_home_of_each_instance_is_found_and_putting_it_twice_is_fine(
    world: World,
) -> None:
    homes = Homes(world.objects, Seal())
    other = replace(home(3), instance=InstanceId(uuid4()))
    for each in (home(2), home(11), home(9), other, home(11)):
        homes.put(each)
    assert set(homes.newest()) == {home(11), other}


def test_another_home_under_the_same_epoch_is_refused(world: World) -> None:
    homes = Homes(world.objects, Seal())
    homes.put(home(2))
    with pytest.raises(Integrity, match="two control planes"):
        homes.put(home(2, "gra-openstack"))


def test_a_home_that_was_changed_or_put_elsewhere_is_not_believed(world: World) -> None:
    homes = Homes(world.objects, Seal())
    homes.put(home(2))
    [name] = world.objects.names("homes")
    document = world.objects.get(name)
    world.objects.put(f"{name[:-2]}99", document)
    with pytest.raises(Integrity, match="somebody moved it"):
        list(homes.newest())
    world.objects.delete(f"{name[:-2]}99")
    world.objects.delete(name)
    world.objects.put(name, document.replace(b"par-pve", b"gra-pve"))
    with pytest.raises(Integrity, match="was changed"):
        list(homes.newest())


def test_lives_are_claimed_one_after_the_other(world: World) -> None:
    lives = Lives(world.objects, Seal())
    assert lives.newest() == 1
    assert lives.claim(uuid4()) == 2
    assert lives.claim(uuid4()) == 3
    assert lives.newest() == 3


def test_one_of_two_restores_at_once_gets_the_life(world: World) -> None:
    class Late(Lives):
        def newest(self) -> int:
            return 1

    Lives(world.objects, Seal()).claim(uuid4())
    with pytest.raises(Conflict, match="only one may go on"):
        Late(world.objects, Seal()).claim(uuid4())


def key(owner: str, version: int = 1, purpose: Purpose = Purpose.VAULT_DATA) -> WrappedKey:
    name = KeyName(id=KeyId(uuid4()), purpose=purpose, owner=owner, version=version)
    return WrappedKey(name=name, wrapped=b"\0wrapped", wrapped_by="parent", created_at=AT)


def test_a_restored_database_finds_newer_keys_in_the_store(world: World) -> None:
    rows = MemoryKeys()
    kept = KeptKeys(rows, world.objects)
    made = [
        kept.put_if_absent(each)
        for each in (
            key("acme/shop"),
            key("acme/shop", 2),
            key("acme/@images"),
            key("@system", 1, Purpose.TENANT),
            key("acme", 1, Purpose.TENANT),
        )
    ]
    restored = KeptKeys(MemoryKeys(), world.objects)
    assert restored.recall() == 5
    assert restored.recall() == 0
    assert all(restored.get(each.name.id) == each for each in made)


def test_a_key_that_was_made_elsewhere_meanwhile_is_the_key(world: World) -> None:
    first = KeptKeys(MemoryKeys(), world.objects).put_if_absent(key("acme/shop"))
    second = KeptKeys(MemoryKeys(), world.objects)
    assert second.put_if_absent(key("acme/shop")) == first
    assert second.list(Purpose.VAULT_DATA, "acme/shop") == (first,)
