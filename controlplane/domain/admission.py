"""Moves that wait for their turn, and the bounds that they wait for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.domain.ids import OperationId, ResourceId, SiteName, TenantName


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A move among others. Those that wait go by `turn`, and by age where turns are equal.

    `sites` are where it is and where it goes. `admitted`: it runs, or is about to.
    """

    operation: OperationId
    move: ResourceId
    tenant: TenantName
    sites: tuple[SiteName, SiteName]
    turn: int
    admitted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How many moves may run at once: in all, of each tenant, and at each site.

    A move counts at both of its sites. `of_site` has those with a number of their own, from 0.
    `waiting` is how many more may wait.
    """

    at_once: int = 50
    per_site: int = 50
    per_tenant: int = 50
    waiting: int = 500
    of_site: Mapping[SiteName, int] = field(default_factory=dict)
