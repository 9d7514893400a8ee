"""Recovery points of two guests that write on at two providers, taken together from real bytes.

Each takes the seconds of two starts and a copy.
"""

from contextlib import closing
from typing import Any
from uuid import UUID

import pytest

from controlplane.domain.ids import PointId
from drivers.simulators.journal import Journal, lost_writes, read_journal
from tests.e2e.shop import Shop
from tests.e2e.system import OPENSTACK, PROXMOX, System

pytestmark = pytest.mark.timeout(240)


def protected(shop: Shop, *members: str) -> str:
    path = shop.path("fedctl.protection", "protections", shop.fresh("nightly"))
    made = shop.http.put(path, json={"spec": {"members": list(members)}})
    assert made.is_success, made.text
    return path


def taken(shop: Shop, path: str) -> dict[str, dict[str, Any]]:
    """The newest points by instance."""
    shop.system.done(shop.http.post(f"{path}/sync"))
    points = shop.system.look(path)["status"]["points"]
    return {each["instance"]: each for each in points}


def journal_in(system: System, point: str) -> Journal:
    with closing(system.parts.vault.open(PointId(UUID(point)), 0)) as disk:
        found = read_journal(disk.read)
    assert found is not None
    return found


def test_points_hold_what_each_guest_was_told_is_durable(system: System, shop: Shop) -> None:
    names = [shop.instance(OPENSTACK), shop.instance(PROXMOX)]
    path = protected(shop, *names)
    before = [shop.writing(name) for name in names]
    promised = [system.sites.promised(each.identity.hex()) for each in before]
    first = taken(shop, path)
    for name, was, told in zip(names, before, promised, strict=True):
        held = journal_in(system, first[name]["point"])
        assert (held.identity, held.damaged) == (was.identity, ())
        assert lost_writes(held, told) == ()
    assert system.look(path)["status"]["spreadSeconds"] > 0
    later = [shop.written_on(name, was) for name, was in zip(names, before, strict=True)]
    again = taken(shop, path)
    # Proxmox tells what changed since the mark that stayed; OpenStack is read whole.
    assert again[names[1]]["bytesRead"] < first[names[1]]["bytesRead"]
    assert again[names[0]]["bytesNew"] < first[names[0]]["bytesNew"]
    for name, was in zip(names, later, strict=True):
        held = journal_in(system, again[name]["point"])
        assert held.last >= was.last
        shop.written_on(name, was)
    assert system.parts.vault.survey() == ()
    assert shop.http.delete(path).is_success
