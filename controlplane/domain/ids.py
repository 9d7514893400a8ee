"""Names and opaque ids, each with a type of its own."""

import re
from typing import NewType
from uuid import UUID, uuid5

from controlplane.domain.errors import Invalid

TenantName = NewType("TenantName", str)
WorkspaceName = NewType("WorkspaceName", str)
RegionName = NewType("RegionName", str)
SiteName = NewType("SiteName", str)
UserName = NewType("UserName", str)

ResourceId = NewType("ResourceId", UUID)
InstanceId = NewType("InstanceId", UUID)
OperationId = NewType("OperationId", UUID)
ArtefactId = NewType("ArtefactId", UUID)
PointId = NewType("PointId", UUID)
GroupId = NewType("GroupId", UUID)

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
NAME_MAX = 128
SCOPE_NAME_MAX = 64
ZONE_NAME_MAX = 32


def checked_name(text: str, *, what: str = "name", longest: int = NAME_MAX) -> str:
    """`text` if it is a name as SECA v1 defines it (1 to `longest` characters); else Invalid."""
    if len(text) > longest:
        raise Invalid(
            f"{what} is {len(text)} characters long; at most {longest} are allowed: shorten it"
        )
    if not _NAME.fullmatch(text):
        raise Invalid(
            f"{what} {text[:80]!r} is not a name: use lower-case letters, digits, '-' and '.',"
            " beginning and ending with a letter or digit"
        )
    return text


def derived(parent: UUID, *path: object) -> ArtefactId:
    """The artefact id that `parent` always gives to `path`: the same step names the same thing."""
    return ArtefactId(uuid5(parent, "/".join(str(part) for part in path)))
