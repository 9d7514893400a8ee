"""Sites at which nothing is done until they were surveyed."""

from datetime import datetime
from typing import cast

from controlplane.domain.errors import Busy
from controlplane.domain.resource import Json, Resource
from controlplane.services.operations import stamp
from controlplane.store.tx import Tx

FROZEN = "frozen"


def freeze(tx: Tx, site: Resource, why: str, now: datetime) -> None:
    """Nothing is done at the site from now on; frozen already, it keeps its first reason."""
    if site.status.get(FROZEN) is None:
        status = {FROZEN: {"since": stamp(now), "why": why}}
        tx.resources.patch_status(site.id, status, now=now)


def thaw(tx: Tx, site: Resource, now: datetime) -> None:
    tx.resources.patch_status(site.id, {FROZEN: None}, now=now)


def check_thawed(site: Resource) -> None:
    """Busy while the site is frozen."""
    frozen = cast("Json | None", site.status.get(FROZEN))
    if frozen is not None:
        name = site.key.name
        raise Busy(
            f"site {name} is frozen since {frozen['since']} ({frozen['why']}): nothing is done"
            f" there until it was surveyed (fedctl site survey {name})",
            reason=FROZEN,
        )
