"""The Proxmox VE driver: all facets together, and everything of ours at a site."""

from collections.abc import Iterator

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.errors import Unavailable
from drivers.proxmox import marks
from drivers.proxmox.adoption import ProxmoxAdoption
from drivers.proxmox.disks import ProxmoxTransfers
from drivers.proxmox.images import ProxmoxImages
from drivers.proxmox.instances import ProxmoxInstances
from drivers.readable import readable


@readable
class ProxmoxDriver(ProxmoxInstances, ProxmoxImages, ProxmoxTransfers, ProxmoxAdoption):
    def owned(self) -> Iterator[Found]:
        found: list[Found] = []
        creating = False
        for node, listed in self._listed():
            owner = marks.owner_of(listed.get("tags"))
            creating = creating or (owner is None and listed.get("lock") == "create")
            if owner is not None:
                found.append(
                    Found(
                        owner=owner,
                        kind=ArtefactKind.INSTANCE,
                        ref=str(listed["vmid"]),
                        power_on=listed["status"] == "running",
                    )
                )
            if marks.snapshots_of(listed.get("tags")):
                found += self._snapshots(node, int(listed["vmid"]))
        if creating and self._creating():
            raise Unavailable(
                f"site {self.site}: a VM is being made whose tag does not show yet: list again"
            )
        found += self._staged_images()
        if self._shell.known:
            found += [
                Found(owner=p.owner, kind=ArtefactKind.SNAPSHOT, ref=f"{p.vmid}/{p.owner.artefact}")
                for p in self._points()
            ]
            found += [
                Found(owner=export.owner, kind=ArtefactKind.EXPORT, ref=export.text())
                for export in self._point_exports()
            ]
            found += [
                Found(owner=export.owner, kind=ArtefactKind.EXPORT, ref=export.socket)
                for export in self._shell.served()
                if not export.writable
            ]
        return iter(found)

    def _snapshots(self, node: str, vmid: int) -> list[Found]:
        vm = self._read(node, vmid)
        if vm is None:
            return []
        return [
            Found(owner=owner, kind=ArtefactKind.SNAPSHOT, ref=f"{vmid}/{name}")
            for name, owner in self._kept(vm).items()
        ]

    def _staged_images(self) -> list[Found]:
        return [
            Found(owner=staged.owner, kind=ArtefactKind.IMAGE, ref=staged.volids[0])
            for staged in self._all_staged(self._images()).values()
            if staged.owner is not None
        ]
