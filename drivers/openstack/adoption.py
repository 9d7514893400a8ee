"""Servers of a project that were not made by us: found, tagged, and given back."""

from collections import defaultdict
from collections.abc import Iterator

from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.discovery import Discovered
from controlplane.domain.errors import Conflict, Unsupported
from controlplane.domain.owner import OwnerTag
from drivers.contract import TAKEN, Adoption
from drivers.openstack import mapping, traits
from drivers.openstack.mapping import Payload
from drivers.openstack.servers import Servers
from drivers.openstack.volumes import Disks

_CALM = {"ACTIVE", "SHUTOFF"}


class AdoptedServers(Servers, Disks, Adoption):
    """A server is marked by tags and metadata, its ports by tags, its volumes by metadata."""

    def discovered(self) -> Iterator[Discovered]:
        if self._hidden_servers():
            raise self._silent()
        listing = self._client.listing
        servers = [
            server
            for server in listing("compute", "/servers/detail", "servers", what="servers")
            if mapping.server_owner(server) is None
        ]
        volumes = {str(v["id"]): v for v in self._list("volumes")} if servers else {}
        ports: dict[str, list[Payload]] = defaultdict(list)
        for port in listing("network", "/ports", "ports", what="ports") if servers else ():
            ports[str(port.get("device_id"))].append(port)
        taken: dict[str, list[Payload]] = defaultdict(list)
        for snapshot in self._list("snapshots") if servers else ():
            taken[str(snapshot["volume_id"])].append(snapshot)
        return iter(
            [
                self._described(server, volumes, ports[str(server["id"])], taken)
                for server in servers
            ]
        )

    @staticmethod
    def _described(
        server: Payload,
        volumes: dict[str, Payload],
        ports: list[Payload],
        taken: dict[str, list[Payload]],
    ) -> Discovered:
        held = [volumes.get(ref) or {"id": ref} for ref in mapping.volume_refs(server)]
        return Discovered(
            seen=mapping.instance(server, held, ports),
            firmware=mapping.firmware_of(held[0] if held else {}),
            traits=traits.traits(
                server, held, ports, [s for volume in held for s in taken[str(volume["id"])]]
            ),
            held=_held(server),
        )

    def adopt(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        if kind is ArtefactKind.INSTANCE:
            self._adopt_server(owner, ref)
        elif kind is ArtefactKind.VOLUME:
            self._adopt_volume(owner, ref)
        else:
            raise Unsupported(f"site {self._client.site}: a {kind} is not adopted by itself")

    def disown(self, owner: OwnerTag, kind: ArtefactKind, ref: str) -> None:
        if kind is ArtefactKind.INSTANCE:
            self._disown_server(owner, ref)
        elif kind is ArtefactKind.VOLUME:
            self._disown_volume(owner, ref)
        else:
            raise Unsupported(f"site {self._client.site}: a {kind} is not adopted by itself")

    # Servers.

    def _adopt_server(self, owner: OwnerTag, ref: str) -> None:
        """The mark first: where two write theirs at once, each sees the other's and gives way."""
        mark = mapping.mark(owner.artefact)
        server = self._shown(ref)
        self._free(server, owner)
        if mark in server["tags"]:
            self._guard(f"server {ref}", owner, mapping.server_owner(server))
        else:
            self._tag(server, mark)
            server = self._shown(ref)
            try:
                self._free(server, owner)
            except Conflict:
                self._untag(server, mark)
                raise
        for tag in (mapping.OURS, mapping.epoch_tag(owner.epoch)):
            self._tag(server, tag)
        for old in mapping.old_epochs(server, owner.epoch):
            self._untag(server, old)
        if mapping.server_owner(server) is None:
            body = {"metadata": {mapping.OURS: owner.text()}}
            path, what = f"/servers/{ref}/metadata", f"server {ref}"
            self._client.call("compute", "POST", path, body, what=what)
        for port in self._plugged(ref):
            for tag in (mapping.OURS, mark, owner.text()):
                self._tag_port(port, tag)

    def _disown_server(self, owner: OwnerTag, ref: str) -> None:
        """The mark goes last: until then the call can be repeated."""
        what, mark = f"server {ref}", mapping.mark(owner.artefact)
        server = self._client.find("compute", f"/servers/{ref}", "server", what=what)
        if server is None or mark not in server["tags"]:
            return
        self._guard(what, owner, mapping.server_owner(server))
        for port in self._plugged(ref):
            for tag in port["tags"]:
                if tag in {mapping.OURS, mark} or mapping.owner_of(tag):
                    path, port_what = f"/ports/{port['id']}/tags/{tag}", f"port {port['id']}"
                    self._client.call("network", "DELETE", path, what=port_what, accept=(404,))
        if mapping.OURS in (server.get("metadata") or {}):
            path = f"/servers/{ref}/metadata/{mapping.OURS}"
            self._client.call("compute", "DELETE", path, what=what, accept=(404,))
        ours = [tag for tag in server["tags"] if tag.startswith(f"{mapping.OURS}.") and tag != mark]
        for tag in (mapping.OURS, *ours, mark):
            self._untag(server, tag)

    def _shown(self, ref: str) -> Payload:
        server: Payload = self._client.get(
            "compute", f"/servers/{ref}", "server", what=f"server {ref}"
        )
        return server

    def _free(self, server: Payload, owner: OwnerTag) -> None:
        """Conflict when it carries the mark of another artefact."""
        mine = mapping.mark(owner.artefact)
        known = mapping.server_owner(server)
        others = [t for t in server["tags"] if mapping.is_mark(t) and t != mine]
        if others or (known is not None and known.artefact != owner.artefact):
            raise Conflict(
                f"server {server['id']} at site {self._client.site} carries another tag"
                f" ({', '.join(others) or known}): it belongs to an instance of fedctl, look which",
                reason=TAKEN,
            )

    def _plugged(self, server: str) -> list[Payload]:
        query = {"device_id": server}
        return list(self._client.listing("network", "/ports", "ports", what="ports", params=query))

    def _tag_port(self, port: Payload, tag: str) -> None:
        if tag not in port["tags"]:
            path = f"/ports/{port['id']}/tags/{tag}"
            self._client.call("network", "PUT", path, what=f"port {port['id']}")

    # Volumes.

    def _adopt_volume(self, owner: OwnerTag, ref: str) -> None:
        what = f"volume {ref}"
        volume = self._client.get("block_storage", f"/volumes/{ref}", "volume", what=what)
        known = mapping.metadata_owner(volume)
        if known is not None and known.artefact != owner.artefact:
            raise Conflict(
                f"{what} at site {self._client.site} carries the tag {known.artefact} already:"
                " look whose it is",
                reason=TAKEN,
            )
        if known is None or self._guard(what, owner, known):
            marks = {mapping.OURS: owner.text(), mapping.VOLUME_ID: owner.artefact.hex}
            path = f"/volumes/{ref}/metadata"
            self._client.call("block_storage", "POST", path, {"metadata": marks}, what=what)

    def _disown_volume(self, owner: OwnerTag, ref: str) -> None:
        what = f"volume {ref}"
        volume = self._client.find("block_storage", f"/volumes/{ref}", "volume", what=what)
        known = None if volume is None else mapping.metadata_owner(volume)
        if known is None or known.artefact != owner.artefact:
            return
        self._guard(what, owner, known)
        for key in (mapping.VOLUME_ID, mapping.OURS):
            path = f"/volumes/{ref}/metadata/{key}"
            self._client.call("block_storage", "DELETE", path, what=what, accept=(404,))


def _held(server: Payload) -> str:
    """What works on it, in Nova's words, or that another adoption does."""
    if doing := mapping.task(server):
        return f"at {doing}"
    if server.get("status") not in _CALM:
        return f"in the state {server.get('status')}"
    if any(mapping.is_mark(tag) for tag in server.get("tags") or ()):
        return "being adopted, or its adoption broke off"
    return ""
