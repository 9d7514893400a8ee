"""Who takes which finding of a move upon themselves: by right, with a reason, on record."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import cast

from controlplane.domain.kinds import Verb, facts
from controlplane.domain.resource import Json, Kind, Resource, ResourceKey
from controlplane.planning.waivers import check_waivable
from controlplane.services.access import Access
from controlplane.services.record import note
from controlplane.services.wish import Caller
from controlplane.store.tx import Tx

WAIVED_BY = "waivedBy"
_WAIVERS = replace(facts(Kind.MOVE), collection="waivers")


def given(spec: Json, before: Resource | None, caller: Caller) -> dict[str, str]:
    """Who waived each finding of the wish; a waiver that stood before keeps its giver."""
    standing = _waivers(before.spec) if before is not None else {}
    givers = cast("Mapping[str, str]", (before.status if before else {}).get(WAIVED_BY) or {})
    return {
        finding: givers[finding]
        if standing.get(finding) == reason and finding in givers
        else caller.subject
        for finding, reason in _waivers(spec).items()
    }


def fresh(spec: Json, before: Resource | None) -> dict[str, str]:
    """The findings that the wish waives and that were not waived for the same reason before."""
    standing = _waivers(before.spec) if before is not None else {}
    return {id_: why for id_, why in _waivers(spec).items() if standing.get(id_) != why}


def must_be_allowed(
    access: Access, caller: Caller, key: ResourceKey, spec: Json, before: Resource | None
) -> None:
    """Invalid for what nobody may waive; Denied for who may not put `waivers/ID`."""
    check_waivable(_waivers(spec))
    for id_ in fresh(spec, before):
        access.require(
            caller, _WAIVERS, Verb.PUT, tenant=key.tenant, workspace=key.workspace, name=id_
        )


def noted(tx: Tx, caller: Caller, key: ResourceKey, new: Mapping[str, str], now: datetime) -> None:
    """An audit entry for each waiver that is new."""
    for id_, reason in new.items():
        note(tx, caller, "waive", key, now, finding=id_, reason=reason)


def ordered(move: Resource) -> list[Json]:
    """The waivers as an operation is told of them."""
    givers = cast("Mapping[str, str]", move.status.get(WAIVED_BY) or {})
    return [
        {"id": id_, "reason": reason, "by": givers.get(id_, "")}
        for id_, reason in _waivers(move.spec).items()
    ]


def _waivers(spec: Json) -> dict[str, str]:
    listed = cast("list[Mapping[str, str]]", spec.get("waivers") or [])
    return {each["finding"]: each["reason"] for each in listed}
