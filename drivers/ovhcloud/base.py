"""A connection to a pool of servers: which are free, whose they are, and what they boot."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from controlplane.domain.errors import (
    Busy,
    Conflict,
    Exhausted,
    Integrity,
    Invalid,
    NotFound,
    Unavailable,
    superseded,
)
from controlplane.domain.network import NetworkSeen
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import (
    Catalogue,
    Health,
    Limits,
    QuotaSeen,
    SiteAccess,
)
from drivers.contract import Quota
from drivers.ovhcloud import mapping
from drivers.ovhcloud.client import OvhClient, part, translated
from drivers.ovhcloud.mapping import LIMITS, Boot, Notes
from drivers.ovhcloud.rescue import NOT_THERE, Block, Rescue, Rescues

_RESOURCES = "/v2/iam/resource"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rented:
    """A server of the pool, its resource name, and what of ours stands in its tags."""

    name: str
    urn: str
    notes: Notes

    @property
    def path(self) -> str:
        return f"/dedicated/server/{part(self.name)}"

    @property
    def owner(self) -> OwnerTag:
        owner = self.notes.owner
        if owner is None:
            raise NotFound(f"server {self.name} is nobody's: look there")
        return owner


class OvhBase(Quota):
    limits: Limits = LIMITS

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        self._options = access.options
        self._api = OvhClient(access)
        self._rescues = Rescues(access)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.site!r})"

    def close(self) -> None:
        self._rescues.close()
        self._api.close()

    # -- the site ------------------------------------------------------------------------------

    def check(self) -> Health:
        """See the pool, and that its servers are of one kind."""
        pool = self._pool()
        servers = [self._server(each) for each in pool]
        kinds = {str(each.get("commercialRange")) for each in servers}
        if len(kinds) > 1:
            raise Invalid(
                f"site {self.site}: its servers are of several kinds ({', '.join(sorted(kinds))}):"
                " name those of one kind in the option servers, and register a site for each"
            )
        trust = "rescue has a new ssh host key with each boot: the first one is taken on trust"
        keys = "user data and ssh keys are not given to a server: its image must have them"
        plain = "the endpoint is plain http: requests can be read on their way"
        closed = [each.name for each in pool if each.notes.nobodys and not each.notes.free]
        kept = (
            f"no instance is made on {', '.join(closed)}: servers that may be wiped need the tag"
            " fedctl-pool=yes"
        )
        warnings = (trust, keys, *([kept] if closed else ()))
        return Health(
            version="1.0", warnings=warnings if self._api.encrypted else (*warnings, plain)
        )

    def catalogue(self) -> Catalogue:
        rented = self._pool()[0]
        server = self._server(rented)
        with translated(f"site {self.site}: hardware of {rented.name}"):
            sku = mapping.sku(server, self._hardware(rented))
        vracks = [str(each) for each in self._api.get("/vrack")]
        # The MACs are the hardware's own.
        networks = [NetworkSeen(ref=each, name=each, macs=()) for each in sorted(vracks)]
        return Catalogue(
            skus=(sku,),
            networks=(*networks, NetworkSeen(ref=mapping.PUBLIC, name=mapping.PUBLIC, macs=())),
        )

    def quota(self) -> QuotaSeen:
        """How many servers are free; all else comes with them."""
        return QuotaSeen(instances=sum(each.notes.free for each in self._pool()))

    # -- the pool ------------------------------------------------------------------------------

    def _pool(self) -> list[Rented]:
        """Every server of the pool, in one complete listing."""
        chosen = set(filter(None, self._options.get("servers", "").split(",")))
        told = self._api.pages(_RESOURCES, resourceType="dedicatedServer")
        with translated(f"site {self.site}: the listing of servers"):
            found = [
                Rented(
                    name=str(each["name"]),
                    urn=str(each["urn"]),
                    notes=mapping.notes(each.get("tags")),
                )
                for each in told
            ]
        found = [each for each in found if not chosen or each.name in chosen]
        if missing := chosen - {each.name for each in found}:
            raise Unavailable(
                f"site {self.site}: {min(missing)} is not in the listing of servers: grant the"
                " keys rights on it, or leave it out of the option servers"
            )
        if not found:
            raise Exhausted(f"site {self.site}: no server is rented that the keys may see")
        return sorted(found, key=lambda each: each.name)

    def _rented(self, name: str) -> Rented | None:
        """One server as it is now; None when there is none."""
        chosen = set(filter(None, self._options.get("servers", "").split(",")))
        if chosen and name not in chosen:
            return None
        try:
            told = self._api.get(f"/dedicated/server/{part(name)}")
        except NotFound:
            return None
        with translated(f"site {self.site}: server {name}"):
            return Rented(
                name=name,
                urn=str(told["iam"]["urn"]),
                notes=mapping.notes(told["iam"].get("tags")),
            )

    def _again(self, rented: Rented) -> Rented:
        found = self._rented(rented.name)
        if found is None:
            raise NotFound(f"server {rented.name} at {self.site} is gone: look there")
        return found

    def _server(self, rented: Rented) -> dict[str, Any]:
        told = self._api.get(rented.path)
        if not isinstance(told, dict):
            raise Unavailable(f"site {self.site}: {rented.name} cannot be read: ask again")
        return told

    def _hardware(self, rented: Rented) -> dict[str, Any]:
        told = self._api.get(f"{rented.path}/specifications/hardware")
        if not isinstance(told, dict):
            raise Unavailable(f"site {self.site}: {rented.name} cannot be read: ask again")
        return told

    # -- whose ---------------------------------------------------------------------------------

    def _lookup(self, owner: OwnerTag, anchor: str | None = None) -> Rented | None:
        """Our server by its tag: the anchor's if it is, else whichever carries it."""
        if anchor is not None:
            rented = self._rented(anchor)
            if rented is not None and is_of(rented.notes.owner, owner):
                return rented
        return next((each for each in self._pool() if is_of(each.notes.owner, owner)), None)

    def _mine(self, owner: OwnerTag) -> Rented:
        """Our server by its tag, for an effect: NotFound, Busy or superseded."""
        rented = self._lookup(owner)
        if rented is None:
            raise NotFound(
                f"site {self.site}: no server carries the tag {owner.artefact}: look there"
            )
        self._not_late(f"server {rented.name}", owner, rented.owner)
        if rented.notes.get(mapping.LEAVING):
            raise Busy(f"server {rented.name} at {self.site} is being wiped: wait until it is free")
        return rented

    def _not_late(self, what: str, owner: OwnerTag, found: OwnerTag) -> None:
        if owner.epoch < found.epoch:
            raise superseded(f"{what} at {self.site}", presented=owner.epoch, found=found.epoch)

    # -- tags ----------------------------------------------------------------------------------

    def _tag(self, rented: Rented, tags: Mapping[str, str]) -> Rented:
        """The server with these tags, in their order; those that it has already are not sent."""
        for key, value in tags.items():
            if rented.notes.get(key) != value:
                self._api.post(
                    f"{_RESOURCES}/{part(rented.urn)}/tag",
                    {"key": mapping.tag_key(key), "value": mapping.tag_value(key, value)},
                )
        return replace(rented, notes=Notes(tags={**rented.notes.tags, **tags}))

    def _untag(self, rented: Rented, keys: Iterable[str]) -> Rented:
        gone = [key for key in keys if key in rented.notes.tags]
        for key in gone:
            try:
                self._api.delete(
                    f"{_RESOURCES}/{part(rented.urn)}/tag/{part(mapping.tag_key(key))}"
                )
            except NotFound:
                continue  # an earlier call's answer was lost
        rest = {key: value for key, value in rented.notes.tags.items() if key not in gone}
        return replace(rented, notes=Notes(tags=rest))

    def _stamped(self, rented: Rented, owner: OwnerTag) -> Rented:
        """The server with the epoch of this effect on it."""
        if owner.epoch <= rented.owner.epoch:
            return rented
        return self._tag(rented, {mapping.OWNER: owner.text()})

    def _claimed(self, rented: Rented, key: str, owner: OwnerTag) -> Rented:
        """The free server as ours; Conflict `anchor-taken`, or Busy when two claim it at once.

        A tag can be written by two, and the last one stays. So each announces itself in a tag of
        its own before it looks: of two at least one sees the other, and lets go.
        """
        if not rented.notes.free:
            raise self._taken(rented)
        mine = mapping.claim(owner)
        rented = self._untag(rented, rented.notes.leftovers)  # of an interrupted release
        self._tag(rented, {mine: f"{time.time():.0f}"})
        found = self._again(rented)
        if not found.notes.free or found.notes.claims(time.time()) != {mine}:
            self._untag(found, [mine])
            if not found.notes.free:
                raise self._taken(rented)
            raise Busy(f"server {rented.name} at {self.site} is claimed by two at once: ask again")
        self._untag(self._tag(found, {key: owner.text()}), [mine])
        found = self._again(rented)
        if not is_of(mapping.owner_of(found.notes.get(key)), owner):
            raise self._taken(rented)
        return found

    def _taken(self, rented: Rented) -> Conflict:
        return Conflict(
            f"server {rented.name} at {self.site} is taken already: reserve another",
            reason="anchor-taken",
        )

    # -- what it boots -------------------------------------------------------------------------

    def _task(self, rented: Rented) -> dict[str, Any] | None:
        """The newest task of a server, None when none is remembered."""
        numbers = self._api.get(f"{rented.path}/task")
        with translated(f"site {self.site}: the tasks of {rented.name}"):
            newest = max((int(each) for each in numbers), default=None)
        if newest is None:
            return None
        return self._task_of(rented, newest)

    def _task_of(self, rented: Rented, number: int) -> dict[str, Any] | None:
        """A task, None when it is done so long that it was purged."""
        try:
            told = self._api.get(f"{rented.path}/task/{number}")
        except NotFound:
            return None
        if not isinstance(told, dict):
            raise Unavailable(f"site {self.site}: task {number} cannot be read: ask again")
        return told

    def _under_way(self, rented: Rented) -> bool:
        """Whether something is being done to the server that outlasts this moment."""
        task = self._task(rented)
        return task is not None and task.get("status") in mapping.OPEN

    def _idle(self, rented: Rented) -> None:
        if self._under_way(rented):
            raise Busy(f"server {rented.name} at {self.site} is at a task of its own: ask again")

    def _netboot(self, rented: Rented, mode: str) -> int:
        numbers = self._api.get(f"{rented.path}/boot", bootType=mode)
        with translated(f"site {self.site}: netboots of {rented.name}"):
            return min(int(each) for each in numbers)

    def _set_boot(self, rented: Rented, mode: str) -> None:
        """What the server boots from now on, whoever has it boot."""
        wish: dict[str, Any] = {"bootId": self._netboot(rented, mode)}
        if mode == mapping.RESCUE:
            wish["rescueSshKey"] = self._rescues.public_key
        self._api.put(rented.path, wish)

    def _booted(self, rented: Rented, mode: str) -> Rented:
        """Have the server boot `mode` now, by the only way there is: cut and started again."""
        self._idle(rented)
        self._set_boot(rented, mode)
        self._rescues.forget(rented.name)
        told = self._api.post(f"{rented.path}/reboot")
        return self._noted(rented, mode, told)

    def _noted(self, rented: Rented, mode: str, task: Any) -> Rented:  # noqa: ANN401  # an answer
        with translated(f"site {self.site}: the task for {rented.name}"):
            boot = Boot(mode=mode, task=int(task["taskId"]))
        return self._tag(rented, {mapping.BOOT: boot.text()})

    # -- rescue --------------------------------------------------------------------------------

    def _in_rescue(self, rented: Rented) -> tuple[Rented, Rescue, Block] | None:
        """The server's rescue shell and disk, None while it is not, or not yet, there.

        The host key of each boot is taken on trust once, and pinned until the next.
        """
        boot = rented.notes.boot
        if boot is None or boot.mode == mapping.HARDDISK or self._under_way(rented):
            return None
        task, _, pinned = rented.notes.get(mapping.HOST).partition(" ")
        known = pinned if task == str(boot.task) else ""
        try:
            shell = self._rescues.of(rented.name, self._address(rented), known or None)
            block = shell.proven()
        except Integrity as e:
            raise Integrity(
                f"server {rented.name} at {self.site} shows another ssh host key than after the"
                " boot that we asked for: if somebody else rebooted it, ask for it to be off,"
                " which boots rescue anew"
            ) from e
        except NOT_THERE:
            self._rescues.forget(rented.name)
            return None
        tags = {mapping.DISK: str(block.size)}
        if not known:
            tags[mapping.HOST] = f"{boot.task} {shell.fingerprint}"
        return self._tag(rented, tags), shell, block

    def _needs_rescue(self, rented: Rented, purpose: str) -> tuple[Rented, Rescue, Block]:
        """As above; Conflict when the server runs, Busy while it is on its way into rescue."""
        boot = rented.notes.boot
        if boot is not None and boot.mode == mapping.HARDDISK:
            raise Conflict(f"server {rented.name} at {self.site} is running: stop it {purpose}")
        found = self._in_rescue(rented)
        if found is None:
            raise Busy(f"server {rented.name} at {self.site} is not in rescue yet: ask again")
        return found

    def _address(self, rented: Rented) -> str:
        return str(self._server(rented).get("ip", ""))


def is_of(found: OwnerTag | None, owner: OwnerTag) -> bool:
    return found is not None and found.artefact == owner.artefact
