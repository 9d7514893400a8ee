"""Signed heads: the newest point of each instance, chained, so that a store cannot hide one."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import rfc8785
from blake3 import blake3

from controlplane.domain.disk import Mark
from controlplane.domain.errors import Integrity
from controlplane.domain.ids import GroupId, InstanceId, PointId, TenantName
from controlplane.domain.vault import (
    DiskCopied,
    InGroup,
    Moment,
    Ref,
)
from controlplane.vault import signed
from controlplane.vault.ports import Signer

HEADS = "heads"
_KIND = "fedctl-head-1"
_FIELD = "head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """`previous` is the hash of the former head document; `root` that of the point's root.

    `at` is when the point was made; heads of before say nothing of it.
    `group` tells of the points that were committed with this one; none of one that stands alone.
    """

    tenant: TenantName
    instance: InstanceId
    point: PointId
    sequence: int
    previous: str
    key_ids: tuple[str, ...]
    mark: str
    root: str
    at: datetime | None = None
    group: InGroup | None = None


def head_name(head: Head) -> str:
    return f"heads/{head.tenant}/{head.instance.hex}/{head.sequence:010d}"


def root_name(point: PointId, root: str) -> str:
    return f"points/{point.hex}/{root}"


def head_hash(document: bytes) -> str:
    return blake3(document).hexdigest()


def sign_head(head: Head, signer: Signer) -> bytes:
    """The head as the store keeps it, signed."""
    body: dict[str, object] = {
        "kind": _KIND,
        "tenant": head.tenant,
        "instance": str(head.instance),
        "point": str(head.point),
        "sequence": head.sequence,
        "previous": head.previous,
        "key_ids": list(head.key_ids),
        "mark": head.mark,
        "root": head.root,
        **({} if head.at is None else {"at": head.at.astimezone(UTC).isoformat()}),
    }
    if head.group is not None:
        body["group"] = _group(head.group)
    return signed.sign(_FIELD, body, signer)


def read_head(document: bytes, signer: Signer, *, what: str) -> Head:
    """The head, or Integrity when any byte of the document is not as it was signed."""
    body: dict[str, Any] = signed.read(_FIELD, document, signer, what=f"{what}: its signed head")
    try:
        return Head(
            tenant=TenantName(body["tenant"]),
            instance=InstanceId(UUID(body["instance"])),
            point=PointId(UUID(body["point"])),
            sequence=int(body["sequence"]),
            previous=body["previous"],
            key_ids=tuple(body["key_ids"]),
            mark=body["mark"],
            root=body["root"],
            at=datetime.fromisoformat(body["at"]) if "at" in body else None,
            group=_read_group(body["group"]) if "group" in body else None,
        )
    except (ValueError, KeyError, TypeError) as e:
        raise Integrity(f"{what}: its signed head is not one of ours") from e


def _group(group: InGroup) -> dict[str, object]:
    return {
        "id": str(group.group),
        "members": group.members,
        "asked": _utc(group.taken.asked),
        "answered": _utc(group.taken.answered),
    }


def _read_group(body: dict[str, Any]) -> InGroup:
    return InGroup(
        group=GroupId(UUID(body["id"])),
        members=int(body["members"]),
        taken=Moment(
            asked=datetime.fromisoformat(body["asked"]),
            answered=datetime.fromisoformat(body["answered"]),
        ),
    )


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def told_group(document: bytes) -> InGroup | None:
    """What a head on record says of its group; nobody checks the signature here."""
    if b'"group"' not in document:  # most are in none, and lists read thousands
        return None
    body = json.loads(document)[_FIELD]
    return _read_group(body["group"]) if "group" in body else None


def mark_text(mark: Mark | None) -> str:
    return mark.text if mark else ""


def encode_root(point: PointId, domain: str, disks: tuple[DiskCopied, ...]) -> bytes:
    """What a point consists of; sealed before it is stored."""
    return _canonical(
        {
            "point": str(point),
            "domain": domain,
            "disks": [
                {
                    "disk": d.disk,
                    "size": d.size,
                    "chunk": d.chunk,
                    "digest": d.digest,
                    "top": _ref(d.top),
                    "chunks": d.chunks,
                    "read": d.bytes_read,
                    "new": d.bytes_new,
                    "stored": d.bytes_stored,
                }
                for d in disks
            ],
        }
    )


def decode_root(body: bytes) -> tuple[PointId, str, tuple[DiskCopied, ...]]:
    """The opposite of `encode_root`, of bytes that were sealed by us."""
    outer = json.loads(body)
    disks = tuple(
        DiskCopied(
            disk=d["disk"],
            size=d["size"],
            chunk=d["chunk"],
            digest=d["digest"],
            top=_read_ref(d["top"]),
            chunks=d["chunks"],
            bytes_read=d["read"],
            bytes_new=d["new"],
            bytes_stored=d["stored"],
        )
        for d in outer["disks"]
    )
    return PointId(UUID(outer["point"])), outer["domain"], disks


def root_hash(id_key: bytes, body: bytes) -> str:
    return blake3(body, key=id_key).hexdigest()


def _ref(ref: Ref | None) -> list[str | int] | None:
    return None if ref is None else [ref.pack.hex(), ref.position, ref.id.hex(), ref.digest.hex()]


def _read_ref(fields: list[str] | None) -> Ref | None:
    if fields is None:
        return None
    pack, position, identity, digest = fields
    return Ref(
        pack=bytes.fromhex(pack),
        position=int(position),
        id=bytes.fromhex(identity),
        digest=bytes.fromhex(digest),
    )


def _canonical(value: object) -> bytes:
    return rfc8785.dumps(value)  # type: ignore[arg-type]  # plain JSON values only
