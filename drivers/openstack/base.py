"""A connection to an OpenStack site: what it offers, and all that is ours there."""

from collections.abc import Iterator

from controlplane.domain.artefact import ArtefactKind, Found
from controlplane.domain.disk import GIB
from controlplane.domain.errors import Conflict, Invalid, Unavailable, superseded
from controlplane.domain.ids import ArtefactId
from controlplane.domain.network import NetworkSeen
from controlplane.domain.owner import OwnerTag
from controlplane.domain.site import (
    Capability,
    Catalogue,
    Health,
    Limits,
    QuotaSeen,
    SiteAccess,
    Sku,
    StorageSeen,
)
from drivers.contract import Quota
from drivers.openstack import mapping
from drivers.openstack.client import Client
from drivers.openstack.mapping import MIB, Payload


class Site(Quota):
    """The parts of the driver that make and change nothing."""

    limits: Limits

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        self._client = Client(access)
        self._by_password = "username" in access.secrets

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._client!r})"

    def close(self) -> None:
        self._client.close()

    def check(self) -> Health:
        client = self._client
        client.get("compute", "/flavors", "", what="login", params={"limit": 1})
        methods = client.get("image", "/info/import", "import-methods", what="import methods")
        lacking: dict[Capability, str] = {}
        if "web-download" not in (methods.get("value") or ()):
            lacking[Capability.IMAGE_PULL] = "the site's image service fetches no URLs"
        warnings = []
        if self._by_password:
            warnings.append("logged in with a password: an application credential can be revoked")
        compute, volume = client.newest("compute"), client.newest("block_storage")
        return Health(
            version=f"compute {compute}, volume {volume}",
            lacking=lacking,
            warnings=tuple(warnings),
        )

    def catalogue(self) -> Catalogue:
        client = self._client
        flavors = client.listing("compute", "/flavors/detail", "flavors", what="flavors")
        skus = [
            Sku(name=str(flavor["name"]), size=mapping.flavor_size(flavor))
            for flavor in flavors
            if not flavor.get("OS-FLV-DISABLED:disabled")
        ]
        cidrs: dict[str, list[str]] = {}
        for subnet in client.listing("network", "/subnets", "subnets", what="subnets"):
            cidrs.setdefault(str(subnet.get("network_id")), []).append(str(subnet.get("cidr")))
        networks = [
            NetworkSeen(
                ref=str(network["id"]),
                name=str(network.get("name")),
                cidr=next(iter(cidrs.get(str(network["id"]), ())), ""),
                addresses=mapping.addresses(cidrs.get(str(network["id"]), ())),
            )
            for network in client.listing("network", "/networks", "networks", what="networks")
            if not network.get("router:external")
        ]
        types = client.listing("block_storage", "/types", "volume_types", what="volume types")
        names = [str(kind["name"]) for kind in types]
        return Catalogue(
            skus=tuple(skus),
            networks=tuple(networks),
            storages=tuple(StorageSeen(name=name) for name in names),
        )

    def quota(self) -> QuotaSeen:
        compute = self._absolute("compute")
        volume = self._absolute("block_storage")
        memory = _left(compute, "maxTotalRAMSize", "totalRAMUsed")
        disk = _left(volume, "maxTotalVolumeGigabytes", "totalGigabytesUsed")
        return QuotaSeen(
            instances=_left(compute, "maxTotalInstances", "totalInstancesUsed"),
            cpus=_left(compute, "maxTotalCores", "totalCoresUsed"),
            memory=None if memory is None else memory * MIB,
            volumes=_left(volume, "maxTotalVolumes", "totalVolumesUsed"),
            disk=None if disk is None else disk * GIB,
        )

    def _absolute(self, service: str) -> Payload:
        limits = self._client.get(service, "/limits", "limits", what="quota")
        found: Payload = limits.get("absolute") or {}
        return found

    # All that is ours.

    def owned(self) -> Iterator[Found]:
        if self._hidden_servers():
            raise self._silent()
        servers = list(self._servers(mapping.OURS))
        for server in servers:
            if owner := mapping.server_owner(server):
                yield mapping.listed(ArtefactKind.INSTANCE, owner, server)
        yield from self._owned_ports({str(server["id"]) for server in servers})
        yield from self._owned_disks()

    def _servers(self, tag: str) -> Iterator[Payload]:
        query = {"tags": tag}
        return self._client.listing(
            "compute", "/servers/detail", "servers", what="servers", params=query
        )

    def _hidden_servers(self) -> bool:
        """Whether some servers are listed as ids only: their cell is down, no filter sees them."""
        listed = self._client.listing("compute", "/servers", "servers", what="servers")
        return any("name" not in server for server in listed)

    def _silent(self) -> Unavailable:
        return Unavailable(
            f"site {self._client.site}: a part of its compute service does not answer, so its"
            " servers cannot be listed: ask again later"
        )

    def _owned_ports(self, servers: set[str]) -> Iterator[Found]:
        """Ports without a server of ours: those of a server are parts of it."""
        for port in self._client.listing("network", "/ports", "ports", what="ports"):
            owner = mapping.port_owner(port)
            if owner and port.get("device_id") not in servers:
                yield mapping.listed(ArtefactKind.NIC, owner, port)

    def _owned_disks(self) -> Iterator[Found]:
        """Volumes, snapshots and images; the parts of one export or snapshot as one."""
        exports: dict[ArtefactId, Found] = {}
        snapshots: dict[ArtefactId, Found] = {}
        for volume in self._list("volumes"):
            if (owner := mapping.metadata_owner(volume)) is None:
                continue
            if mapping.VOLUME_ID in volume["metadata"]:
                yield mapping.listed(ArtefactKind.VOLUME, owner, volume)
            else:
                exports[owner.artefact] = mapping.listed(ArtefactKind.EXPORT, owner, volume)
        for snapshot in self._list("snapshots"):
            if (owner := mapping.metadata_owner(snapshot)) is None:
                continue
            if mapping.SNAPSHOT_ID in snapshot["metadata"]:
                line = mapping.listed(ArtefactKind.SNAPSHOT, owner, snapshot)
                snapshots.setdefault(owner.artefact, line)
            else:
                exports[owner.artefact] = mapping.listed(ArtefactKind.EXPORT, owner, snapshot)
        for image in self._client.listing("image", "/images", "images", what="images"):
            if staged := mapping.owner_in(image.get("tags") or ()):
                yield mapping.listed(ArtefactKind.IMAGE, staged, image)
            elif (owner := mapping.image_owner(image)) and self._is_export(image, owner):
                exports[owner.artefact] = mapping.listed(ArtefactKind.EXPORT, owner, image)
        yield from snapshots.values()
        yield from exports.values()

    def _list(self, kind: str) -> Iterator[Payload]:
        return self._client.listing("block_storage", f"/{kind}/detail", kind, what=kind)

    @staticmethod
    def _is_export(image: Payload, owner: OwnerTag) -> bool:
        """Properties go from image to volume to image; the name tells who made this one."""
        return image.get("name") == mapping.mark(owner.artefact)

    # What the facets share.

    def _named(self, name: str) -> None:
        if not 1 <= len(name) <= self.limits.name_length:
            raise Invalid(
                f"name {name[:20]!r} has {len(name)} characters; site {self._client.site} takes 1"
                f" to {self.limits.name_length}: shorten it"
            )

    def _other_wish(self, what: str) -> Conflict:
        return Conflict(
            f"{what} at site {self._client.site} was made under this tag for another wish: look at"
            " it, then delete it or use a tag of its own"
        )

    @staticmethod
    def _guard(what: str, owner: OwnerTag, found: OwnerTag | None) -> bool:
        """Refuse a lower epoch than the stamp; answers whether the stamp must be raised."""
        stamp = found.epoch if found else 0
        if owner.epoch < stamp:
            raise superseded(what, presented=owner.epoch, found=stamp)
        return owner.epoch > stamp

    def _stamp_metadata(self, kind: str, record: Payload, owner: OwnerTag) -> None:
        """Raise the stamp of a volume or a snapshot, if it is lower."""
        what = f"{kind} {record['id']}"
        if self._guard(what, owner, mapping.metadata_owner(record)):
            body = {"metadata": {mapping.OURS: owner.text()}}
            path = f"/{kind}s/{record['id']}/metadata"
            self._client.call("block_storage", "POST", path, body, what=what)


def _left(limits: Payload, most: str, used: str) -> int | None:
    bound = int(limits.get(most, -1))
    return None if bound < 0 else max(0, bound - int(limits.get(used) or 0))
