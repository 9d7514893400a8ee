"""What to do about the copies that a site shows, before anything else is done there."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.owner import OwnerTag
from controlplane.domain.placement import Lease, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is on record of one instance; `name` is what people call it."""

    name: str
    placement: Placement
    lease: Lease | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One copy with which something is to be done, presented under `owner`'s epoch."""

    owner: OwnerTag
    ref: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyPlan:
    """`still` copies are stopped and fenced, `free` ones are homes whose fence may go.

    `epochs` are higher than those on record. `left` are copies of an operation that still runs and
    decides itself, `strange` those of instances that are not known here, `missing` the homes that
    the site does not show: nothing is done about any of these.
    """

    epochs: Mapping[InstanceId, int]
    still: tuple[Held, ...]
    free: tuple[Held, ...]
    left: tuple[str, ...]
    strange: tuple[str, ...]
    missing: tuple[str, ...]


def survey(
    site: str,
    found: Collection[Found],
    known: Mapping[InstanceId, Known],
    *,
    others_frozen: bool,
) -> SurveyPlan:
    """A copy that is not its instance's home can run nowhere; a home can, once all sites were seen.

    The record of homes is certain (it is read from the signed ones in the store when the control
    plane was restored), the epochs on objects may be higher than its own.
    """
    epochs: dict[InstanceId, int] = {}
    for each in found:
        instance = each.owner.instance
        if instance in known and each.owner.epoch > known[instance].placement.epoch:
            epochs[instance] = max(each.owner.epoch, epochs.get(instance, 0))
    still: list[Held] = []
    free: list[Held] = []
    left: list[str] = []
    strange: list[str] = []
    for copy in (f for f in found if f.kind is ArtefactKind.INSTANCE):
        instance = copy.owner.instance
        if instance not in known:
            strange.append(_strange(copy))
            continue
        it = known[instance]
        held = _held(copy, it, epochs.get(instance, it.placement.epoch))
        if it.lease is not None:
            left.append(f"{it.name} ({copy.ref}): operation {it.lease.operation} decides")
        elif it.placement.copy is None and copy.power_on is not False:
            # Of an adoption that broke off: it ran before there was a tag on it.
            strange.append(f"{_running(copy)} of {it.name}, which has no home on record")
        elif copy.owner.artefact != it.placement.copy:
            still.append(held)
        elif not others_frozen:
            free.append(held)
    here = {f.owner.artefact for f in found if f.kind is ArtefactKind.INSTANCE}
    return SurveyPlan(
        epochs=epochs,
        still=tuple(still),
        free=tuple(free),
        left=tuple(left),
        strange=tuple(strange),
        missing=tuple(
            it.name
            for it in known.values()
            if it.placement.site == site
            and it.placement.copy is not None
            and it.placement.copy not in here
        ),
    )


def belongs(found: Found, homes: Mapping[ArtefactId, OperationId]) -> bool:
    """Whether it is one of these home copies, or a volume that was made beside one of them."""
    if found.kind is ArtefactKind.VOLUME:
        return found.owner.operation in homes.values()
    return found.kind is ArtefactKind.INSTANCE and found.owner.artefact in homes


def _held(copy: Found, it: Known, epoch: int) -> Held:
    owner = OwnerTag(
        artefact=copy.owner.artefact,
        instance=copy.owner.instance,
        operation=copy.owner.operation,
        epoch=epoch,
    )
    return Held(owner=owner, ref=copy.ref, name=it.name)


def _strange(copy: Found) -> str:
    return f"{_running(copy)} of an instance that is not known here"


def _running(copy: Found) -> str:
    power = {True: "runs", False: "is stopped", None: "power not known"}[copy.power_on]
    return f"instance {copy.ref} ({power})"
