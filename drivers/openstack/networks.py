"""Networks of our own making in Neutron: one subnet, no router, so nothing leaves them."""

from controlplane.domain.answer import Absent, Answer, Seen
from controlplane.domain.owner import OwnerTag
from drivers.contract import Networks
from drivers.openstack import mapping
from drivers.openstack.base import Site
from drivers.openstack.mapping import Payload


class OwnNetworks(Site, Networks):
    def _network(self, owner: OwnerTag) -> Payload | None:
        """Found by its description, which it has from its first moment; tags come after."""
        query = {"description": mapping.mark(owner.artefact)}
        what = f"network of {owner.artefact}"
        found = self._client.listing("network", "/networks", "networks", what=what, params=query)
        return next(iter(found), None)

    def _subnets(self, network: str) -> list[Payload]:
        query = {"network_id": network}
        what = f"subnets of {network}"
        return list(self._client.listing("network", "/subnets", "subnets", what=what, params=query))

    def find_network(self, owner: OwnerTag) -> Answer[str]:
        network = self._network(owner)
        return Absent() if network is None else Seen(str(network["id"]))

    def create_network(self, owner: OwnerTag, name: str, cidr: str) -> str:
        self._named(name)
        what = f"network {name}"
        network = self._network(owner)
        if network is None:
            wish = {"name": name, "description": mapping.mark(owner.artefact)}
            network = self._client.send(
                "network", "POST", "/networks", {"network": wish}, "network", what=what
            )
        ref = str(network["id"])
        higher = self._guard(what, owner, mapping.owner_in(network["tags"]))
        subnets = self._subnets(ref)
        if network["name"] != name or any(subnet["cidr"] != cidr for subnet in subnets):
            raise self._other_wish(what)
        if higher:
            tags = {"tags": [mapping.OURS, owner.text()]}
            self._client.call("network", "PUT", f"/networks/{ref}/tags", tags, what=what)
        if not subnets:
            version = 6 if ":" in cidr else 4
            subnet = {"network_id": ref, "cidr": cidr, "ip_version": version, "gateway_ip": None}
            self._client.call("network", "POST", "/subnets", {"subnet": subnet}, what=what)
        return ref

    def delete_network(self, owner: OwnerTag) -> None:
        network = self._network(owner)
        if network is not None:
            what = f"network {network['name']}"
            self._guard(what, owner, mapping.owner_in(network["tags"]))
            path = f"/networks/{network['id']}"
            self._client.call("network", "DELETE", path, what=what, accept=(404,))
