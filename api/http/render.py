"""A resource as the wire shows it."""

import re
from collections.abc import Mapping
from datetime import datetime

from controlplane.domain.kinds import KindFacts, facts_of
from controlplane.domain.operation import Operation
from controlplane.domain.resource import Condition, Kind, Resource
from controlplane.services.operations import operation_key, stamp

_REASON_CHARS = re.compile(r"[^A-Za-z0-9_,:]+")


def render(entry: KindFacts, resource: Resource, *, verb: str, region: str) -> dict[str, object]:
    """The whole envelope; `region` is shown where the kind has one."""
    key = resource.key
    metadata: dict[str, object] = {
        "name": key.name,
        "provider": entry.provider,
        "resource": entry.resource(key.name),
        "verb": verb,
        "apiVersion": entry.version,
        "kind": entry.kind.value,
        "ref": entry.ref(key),
    }
    if entry.lasting:
        metadata["createdAt"] = stamp(resource.created_at)
        metadata["lastModifiedAt"] = stamp(resource.modified_at)
        metadata["resourceVersion"] = resource.version
        if resource.deleted_at is not None:
            metadata["deletedAt"] = stamp(resource.deleted_at)
    if key.tenant is not None:
        metadata["tenant"] = key.tenant
    if key.workspace is not None:
        metadata["workspace"] = key.workspace
    if entry.regional:
        metadata["region"] = region
    answer: dict[str, object] = {
        "labels": dict(resource.labels),
        "annotations": dict(resource.annotations),
        "extensions": dict(resource.extensions),
        "metadata": metadata,
        "spec": plain(resource.spec),
    }
    if entry.stateful:
        answer["status"] = {
            **plain(resource.status),
            "state": resource.state.value,
            "conditions": [_condition(each) for each in resource.conditions],
        }
    return answer


def plain(found: Mapping[str, object]) -> dict[str, object]:
    """Without fields that are null: no client of SECA expects one."""
    return {name: value for name, value in found.items() if value is not None}


def _condition(condition: Condition) -> dict[str, object]:
    entry: dict[str, object] = {
        "state": condition.state.value,
        "lastTransitionAt": stamp(condition.at),
    }
    if condition.type:
        entry["type"] = condition.type
    if reason := _REASON_CHARS.sub("_", condition.reason).strip("_,:0123456789"):
        entry["reason"] = reason
    if condition.message:
        entry["message"] = condition.message
    return entry


def operation_ref(operation: Operation) -> str:
    """The URN under which the operation is read; what the header `Fedctl-Operation` says."""
    key = operation_key(operation)
    return facts_of(key).ref(key)


def time(at: datetime | None) -> str | None:
    return None if at is None else stamp(at)


ZONAL = frozenset({Kind.INSTANCE, Kind.PLACEMENT})
