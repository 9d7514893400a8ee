"""The shapes of each kind's spec and status, bound to where the kind lives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from api.schemas import fedctl, seca, vault
from api.schemas.wire import ListMetadata, ResourceIn, ResourceOut, Shown, Status, Wire
from controlplane.domain.kinds import KINDS, KindFacts
from controlplane.domain.resource import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """`request` is the body of a PUT, `answer` and `listing` what comes back."""

    spec: type[Wire]
    request: type[ResourceIn[Any]]
    answer: type[BaseModel]
    listing: type[BaseModel]


def _title(kind: Kind) -> str:
    return "".join(part.capitalize() for part in kind.split("-"))


def _shapes(kind: Kind, spec: type[Wire], status: type[Status]) -> Shapes:
    title = _title(kind)
    request: Any = ResourceIn[spec]  # type: ignore[valid-type]
    answer: Any = ResourceOut[spec, status]  # type: ignore[valid-type]
    named_in = type(f"{title}In", (request,), {"__doc__": f"A wish for a {kind}."})
    named_out = type(f"{title}Out", (answer,), {"__doc__": f"A {kind} as it is."})
    listing = type(
        f"{title}List",
        (Shown,),
        {
            "__doc__": f"A page of kind {kind}.",
            "__annotations__": {"items": list[named_out], "metadata": ListMetadata},  # type: ignore[valid-type]
        },
    )
    return Shapes(spec=spec, request=named_in, answer=named_out, listing=listing)


SHAPES: Mapping[Kind, Shapes] = {
    kind: _shapes(kind, spec, status)
    for kind, spec, status in (
        (Kind.REGION, seca.RegionSpec, Status),
        (Kind.ROLE, seca.RoleSpec, Status),
        (Kind.ROLE_ASSIGNMENT, seca.RoleAssignmentSpec, Status),
        (Kind.WORKSPACE, seca.WorkspaceSpec, seca.WorkspaceStatus),
        (Kind.INSTANCE_SKU, seca.InstanceSkuSpec, Status),
        (Kind.INSTANCE, seca.InstanceSpec, seca.InstanceStatus),
        (Kind.STORAGE_SKU, seca.StorageSkuSpec, Status),
        (Kind.IMAGE, seca.ImageSpec, seca.ImageStatus),
        (Kind.BLOCK_STORAGE, seca.BlockStorageSpec, seca.BlockStorageStatus),
        (Kind.SITE, fedctl.SiteSpec, fedctl.SiteStatus),
        (Kind.OPERATION, fedctl.OperationSpec, fedctl.OperationStatus),
        (Kind.AUDIT_ENTRY, fedctl.AuditEntrySpec, Status),
        (Kind.AUDIT_CHECKPOINT, fedctl.AuditCheckpointSpec, Status),
        (Kind.VAULT_CHECK, vault.VaultCheckSpec, vault.VaultCheckStatus),
        (Kind.VAULT_STATS, vault.VaultStatsSpec, vault.VaultStatsStatus),
        (Kind.RECOVERY_POINT, vault.RecoveryPointSpec, vault.RecoveryPointStatus),
        (Kind.IMAGE_UPLOAD, fedctl.ImageUploadSpec, fedctl.ImageUploadStatus),
        (Kind.MOVE, fedctl.MoveSpec, fedctl.MoveStatus),
        (Kind.PROTECTION, fedctl.ProtectionSpec, fedctl.ProtectionStatus),
        (Kind.PLACEMENT, fedctl.PlacementSpec, fedctl.PlacementStatus),
    )
}


def shapes(entry: KindFacts) -> Shapes:
    return SHAPES[entry.kind]


__all__ = ["KINDS", "SHAPES", "KindFacts", "Shapes", "shapes"]
