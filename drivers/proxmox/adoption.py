"""VMs at a Proxmox VE site that were not made by us: found, tagged, and given back."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.discovery import Discovered
from controlplane.domain.errors import Conflict, NotFound, Unsupported
from controlplane.domain.instance import Trait, Traits
from controlplane.domain.owner import OwnerTag
from drivers.contract import TAKEN, Adoption
from drivers.proxmox import mapping, marks, traits
from drivers.proxmox.base import ProxmoxBase


class ProxmoxAdoption(ProxmoxBase, Adoption):
    def discovered(self) -> Iterator[Discovered]:
        """Containers are not listed: no other provider could run them."""
        found = []
        for node, listed in self._listed():
            if marks.owner_of(listed.get("tags")) is None and not listed.get("template"):
                path = f"nodes/{node}/qemu/{listed['vmid']}"
                try:
                    config = self._api.get(f"{path}/config", current=1)
                    snapshots = self._api.get(f"{path}/snapshot")
                except NotFound:
                    continue  # it went while we looked
                found.append((listed, config, snapshots))
        holders = Counter(disk.volume for _, c, _ in found for _, disk in mapping.disks(c))
        shared = frozenset(volume for volume, number in holders.items() if number > 1)
        return iter(
            [
                Discovered(
                    seen=mapping.instance_seen(int(listed["vmid"]), config, listed),
                    firmware=mapping.firmware(config),
                    traits=Traits(
                        looked=frozenset(Trait),
                        found=(
                            *traits.traits(config, snapshots).found,
                            *traits.of_volumes(config, shared),
                        ),
                    ),
                    held=f"locked ({config['lock']})" if config.get("lock") else "",
                )
                for listed, config, snapshots in found
            ]
        )

    def adopt(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        """The configuration's digest lets one of two writers through."""
        self._taggable(kind)
        if (node := self._node_of(ref)) is None:
            raise NotFound(f"there is no VM {ref} at {self.site}: scan it again")
        path = f"nodes/{node}/qemu/{ref}/config"
        config = self._api.get(path, current=1)
        there = marks.owner_of(config.get("tags"))
        if there is not None and there.artefact != owner.artefact:
            raise Conflict(
                f"VM {ref} at {self.site} carries the tag {there.artefact} already: it belongs to"
                " an instance of fedctl, look which",
                reason=TAKEN,
            )
        if there is not None:
            self._not_late(owner, there)
        if there == owner:
            return
        tags = marks.tags_with(config.get("tags"), owner)
        self._api.put(path, tags=tags, digest=str(config["digest"]))

    def disown(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        self._taggable(kind)
        node = self._node_of(ref)
        vm = None if node is None else self._read(node, int(ref))
        if vm is None or vm.owner.artefact != owner.artefact:
            return
        self._current(vm, owner)
        kept = {
            "tags": marks.tags_without(vm.config.get("tags")),
            "description": marks.write_notes(marks.Notes(other=vm.notes.other)),
        }
        wish = {key: value for key, value in kept.items() if value}
        if gone := [key for key, value in kept.items() if not value and vm.config.get(key)]:
            wish["delete"] = ",".join(gone)
        if replace(vm.notes, other="") == marks.Notes():
            wish.pop("description", None)  # nothing of ours stands there
        self._api.put(f"{vm.path}/config", **wish, digest=str(vm.config["digest"]))

    def _node_of(self, ref: str) -> str | None:
        """The node that has the VM."""
        return next((node for node, listed in self._listed() if str(listed["vmid"]) == ref), None)

    def _taggable(self, kind: ArtefactKind) -> None:
        if kind is not ArtefactKind.INSTANCE:
            raise Unsupported(
                f"{self.site}: a {kind} goes with its VM and is not adopted by itself"
            )
