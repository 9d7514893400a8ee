"""The contract every provider driver keeps.

A driver is one open connection to one site, used by one thread. The clauses that hold for all
facets (the contract suite has a test for each; callers may rely on nothing else):

1. Every effect is keyed by the owner tag's `artefact`. The same tag and wish again changes nothing
   and answers the same; the same tag with another wish raises Conflict. Raising the epoch in a
   repeated call is not another wish: it raises the stamp on the object.
2. An effect that presents a lower epoch than the object's stamp raises `superseded` (a Conflict)
   and changes nothing.
3. Deleting, releasing or isolating what is absent succeeds. `find_*` never raises for absence and
   answers Unknown when a listing was partial, stale or refused.
4. A call returns once the provider has accepted. Progress is read with `find_*`. No driver sleeps,
   polls, retries, caches, reads the environment, or logs a secret.
5. Every SDK call has a timeout (`SiteAccess.timeout`). Only domain types go in and out, and only
   FedctlErrors come out, with the SDK's error as `__cause__`:
   wrong credentials or rights Denied; gone NotFound; in the way Conflict; cannot at all
   Unsupported; quota or space Exhausted; locked by another task Busy; 429, 5xx, garbage or no
   answer Unavailable;
   a checksum that differs Integrity; a wish the provider calls malformed Invalid.
6. `refs` are the provider's own ids as text. Sizes are bytes, times are seconds.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from controlplane.domain.answer import Answer
from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.discovery import Discovered
from controlplane.domain.disk import (
    BlockReader,
    BlockWriter,
    DiskSource,
    ExportSeen,
    ImageSeen,
    ImageSource,
    Mark,
    SnapshotSeen,
    VolumeSeen,
    VolumeSpec,
)
from controlplane.domain.errors import Unsupported
from controlplane.domain.fence import FenceProof
from controlplane.domain.instance import InstanceSeen, InstanceSpec, Manner, Power, Traits
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import Capability, Catalogue, Health, Limits, QuotaSeen


class Driver(ABC):
    """One open connection to one site. Limits are facts, not methods."""

    limits: Limits

    @abstractmethod
    def check(self) -> Health:
        """Log in and tell the version and what this site lacks. Denied, Unavailable."""

    @abstractmethod
    def catalogue(self) -> Catalogue:
        """What the site offers; `skus` empty where sizes are free."""

    @abstractmethod
    def owned(self) -> Iterator[Found]:
        """Everything at the site that carries an owner tag, of every kind.

        Raises Unavailable when the listing is partial: a sweep may not draw conclusions from it.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the connection back; twice is fine."""


class Instances(Driver):
    @abstractmethod
    def reserve(self, owner: OwnerTag, promised: Collection[str] = ()) -> str | None:
        """An anchor to be stored before `create`, or None where the provider has none.

        It is none of those in `promised`, which others of ours hold for what they did not create
        yet. Changes nothing at the site. A second call may answer another anchor.
        """

    @abstractmethod
    def find(self, owner: OwnerTag, anchor: str | None = None) -> Answer[InstanceSeen]: ...

    @abstractmethod
    def traits(self, owner: OwnerTag) -> Traits:
        """What of the instance may hold it where it is, or get lost on the way. NotFound.

        Nothing of our own making is told: no fence, no snapshot, no device of ours.
        """

    @abstractmethod
    def create(self, owner: OwnerTag, spec: InstanceSpec) -> str:
        """Ask for the instance, powered off, and answer its ref once accepted.

        Watch it with `find` until READY or FAILED. Conflict with reason `anchor-taken` when the
        anchor belongs to something that is not ours: reserve another and ask again.
        Where a site can only create running instances the driver sees to it that `find` answers
        WORKING until it is stopped, and nics are as isolated as wished from the first moment.
        """

    @abstractmethod
    def set_power(self, owner: OwnerTag, power: Power, manner: Manner = Manner.GRACEFUL) -> None:
        """Ask for `power`; already so is fine. Conflict while fenced and `power` is ON."""

    @abstractmethod
    def delete(self, owner: OwnerTag) -> None:
        """Ask for the instance to go, by tag; watch with `find` until Absent.

        Volumes made before it stay; those the site made with it (INSTANCE_FIRST) go. A running
        instance raises Conflict; a fence of ours does not stand in the way.
        """

    @abstractmethod
    def isolate_nics(self, owner: OwnerTag) -> None:
        """No nic of the instance carries traffic any more."""

    @abstractmethod
    def connect_nics(self, owner: OwnerTag) -> None:
        """Every nic of the instance carries traffic."""

    @abstractmethod
    def give_up_nics(self, owner: OwnerTag) -> bool:
        """Take the next step to free MACs and addresses of a stopped instance for another copy.

        Call again until it answers true. Where a site guards them the instance loses its nics for
        good, elsewhere they are isolated; a fence stands afterwards as it stood before. Conflict
        while the instance runs; absent is fine.
        """

    @abstractmethod
    def probe_boot(self, owner: OwnerTag) -> str:
        """What proves that the guest booted: text from the console or the agent's answer.

        Empty while there is nothing to see yet. Sites with neither raise Unsupported.
        """


class Volumes(Driver):
    """Disks made before an instance. Declared where CreateOrder is DISKS_FIRST."""

    @abstractmethod
    def find_volume(self, owner: OwnerTag) -> Answer[VolumeSeen]: ...

    @abstractmethod
    def create_volume(self, owner: OwnerTag, spec: VolumeSpec) -> str: ...

    @abstractmethod
    def delete_volume(self, owner: OwnerTag) -> None:
        """Conflict while attached."""


class ImagePull(Driver):
    """The site fetches an image from a URL of ours.

    Images staged by pull or push are found and deleted in the same way and under the same tag.
    """

    @abstractmethod
    def pull_image(self, owner: OwnerTag, name: str, source: ImageSource) -> str:
        """Unsupported with reason `pull-refused` when the site will not fetch such a URL at all."""

    @abstractmethod
    def find_image(self, owner: OwnerTag) -> Answer[ImageSeen]: ...

    @abstractmethod
    def delete_image(self, owner: OwnerTag) -> None: ...


class ImagePush(Driver):
    """We send an image's bytes to the site."""

    @abstractmethod
    def push_image(
        self, owner: OwnerTag, name: str, source: ImageSource, data: Iterable[bytes]
    ) -> str:
        """Send `data` (the file that `source` describes) and return when the site has it all.

        A push that broke off is begun anew by calling again under the same tag. Integrity when the
        site's own digest differs.
        """

    @abstractmethod
    def find_image(self, owner: OwnerTag) -> Answer[ImageSeen]: ...

    @abstractmethod
    def delete_image(self, owner: OwnerTag) -> None: ...


class Snapshots(Driver):
    @abstractmethod
    def create_snapshot(self, owner: OwnerTag, instance: str) -> str:
        """Freeze all disks of the instance `ref` at one moment, as far as the provider can."""

    @abstractmethod
    def find_snapshot(self, owner: OwnerTag) -> Answer[SnapshotSeen]: ...

    @abstractmethod
    def delete_snapshot(self, owner: OwnerTag) -> None: ...


class DiskExport(Driver):
    """Disks leave as staged block readers: prepare until ready, open, release."""

    @abstractmethod
    def prepare_export(
        self, owner: OwnerTag, source: DiskSource, since: Mark | None = None
    ) -> ExportSeen:
        """Take the next step towards a readable export; call again until READY.

        Each call makes at most one change at the site and is safe to repeat. The source must not be
        written meanwhile: a snapshot, a volume of a stopped instance, or an unattached volume. Its
        tag names the same instance as the snapshot's does.
        """

    @abstractmethod
    def find_export(self, owner: OwnerTag) -> Answer[ExportSeen]: ...

    @abstractmethod
    def open_export(self, owner: OwnerTag) -> BlockReader:
        """Read a READY export from this process. Valid until closed or released."""

    @abstractmethod
    def release_export(self, owner: OwnerTag) -> None:
        """Revoke every reader and remove what preparing made; a stuck reader fails from then on.

        May need several calls: `find_export` answers Absent when all of it is gone.
        """


class DiskImport(Driver):
    """Random writing to a disk of a stopped instance."""

    @abstractmethod
    def open_import(self, owner: OwnerTag, volume: str) -> BlockWriter:
        """Write to the volume `ref` of the instance `owner`. Revokes any earlier writer first."""

    @abstractmethod
    def close_import(self, owner: OwnerTag, volume: str) -> None:
        """Revoke any writer; none is fine."""


class Fencing(Driver):
    @abstractmethod
    def fence(self, owner: OwnerTag) -> FenceProof:
        """Make the stopped instance unable to start: autostart and HA off first, then the lock.

        Conflict while it runs. The proof's level is what was verified after the effect.
        """

    @abstractmethod
    def verify_fence(self, owner: OwnerTag) -> FenceProof:
        """Look again. Conflict with reason `not-fenced` when it could run."""

    @abstractmethod
    def unfence(self, owner: OwnerTag) -> None: ...


class Quota(Driver):
    @abstractmethod
    def quota(self) -> QuotaSeen: ...


class Networks(Driver):
    """Isolated networks of our own making, beside those in the catalogue."""

    @abstractmethod
    def create_network(self, owner: OwnerTag, name: str, cidr: str) -> str: ...

    @abstractmethod
    def find_network(self, owner: OwnerTag) -> Answer[str]: ...

    @abstractmethod
    def delete_network(self, owner: OwnerTag) -> None: ...


class ConsoleLog(Driver):
    @abstractmethod
    def console_log(self, owner: OwnerTag) -> str:
        """The last lines (at most 64 KiB) that the guest printed; empty while there are none."""


class GuestAgent(Driver):
    @abstractmethod
    def agent_answers(self, owner: OwnerTag) -> bool: ...


class Pausing(Driver):
    """A running instance can be held still, with all that its process knows of its disks."""

    @abstractmethod
    def pause(self, owner: OwnerTag, within: timedelta) -> bool:
        """Nothing of the instance runs or writes once this returned; paused already is fine.

        It counts as powered on. Answers whether its guest's agent froze the file systems before,
        so that its disks hold them whole; they thaw when it goes on. After `within` the site itself
        lets it go on, whatever became of us, unless it was resumed, kept or cut before. Conflict
        while it is off.
        """

    @abstractmethod
    def keep_paused(self, owner: OwnerTag) -> None:
        """Nothing lets it go on any more but `resume`.

        Conflict when it went on since it was paused: by its time limit, or by somebody's hand.
        """

    @abstractmethod
    def resume(self, owner: OwnerTag) -> None:
        """It goes on where it was held, its file systems thawed; running or off is fine."""


class Adoption(Driver):
    """Machines that were not made by us are found, and carry our tag from then on.

    `kind` is INSTANCE, or VOLUME where disks come first. Nothing but tags changes: what runs goes
    on running.
    """

    @abstractmethod
    def discovered(self) -> Iterator[Discovered]:
        """Every instance at the site that carries no owner tag, templates aside.

        Raises Unavailable when the listing is partial. Changes nothing.
        """

    @abstractmethod
    def adopt(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        """Write the tag on the object `ref`; it is found by it once the site has settled.

        Conflict with reason `taken` when it carries another tag, also when two write at once: then
        nothing of this one stays. NotFound when it is gone.
        """

    @abstractmethod
    def disown(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        """Take the tag, and every other mark of ours, off the object `ref`.

        It is looked at itself, not in a listing: a tag that does not show yet goes, too. Without
        that tag, or gone, is fine.
        """


FACETS: dict[Capability, type[Driver]] = {
    Capability.INSTANCES: Instances,
    Capability.VOLUMES: Volumes,
    Capability.SNAPSHOTS: Snapshots,
    Capability.DISK_EXPORT: DiskExport,
    Capability.DISK_IMPORT: DiskImport,
    Capability.IMAGE_PULL: ImagePull,
    Capability.IMAGE_PUSH: ImagePush,
    Capability.NETWORKS: Networks,
    Capability.FENCING: Fencing,
    Capability.CONSOLE_LOG: ConsoleLog,
    Capability.GUEST_AGENT: GuestAgent,
    Capability.PAUSING: Pausing,
    Capability.QUOTA: Quota,
    Capability.ADOPTION: Adoption,
}

TAKEN = "taken"
"""The reason of the Conflict when somebody else's tag stands on what was to be adopted."""

F = TypeVar("F", bound=Driver)


def capabilities(driver: Driver | type[Driver]) -> frozenset[Capability]:
    """What a driver can, read from its class line."""
    cls = driver if isinstance(driver, type) else type(driver)
    return frozenset(c for c, facet in FACETS.items() if issubclass(cls, facet))


def require(driver: Driver, facet: type[F]) -> F:
    """`driver` as the facet, or Unsupported."""
    if not isinstance(driver, facet):
        raise Unsupported(
            f"{type(driver).__name__} has no {facet.__name__}: choose a site whose provider has it"
        )
    return driver
