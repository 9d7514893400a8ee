"""Networks of our own: XAPI's internal ones, without a host's card in them."""

import json
from ipaddress import ip_network

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.errors import Busy, Conflict, Invalid, NotFound, Unavailable
from controlplane.domain.owner import OwnerTag
from drivers.contract import Networks
from drivers.xcpng import mapping
from drivers.xcpng.base import View, XcpBase
from drivers.xcpng.client import Record
from drivers.xcpng.mapping import Stamp


class XcpNetworks(XcpBase, Networks):
    def _network(self, view: View, owner: OwnerTag) -> tuple[Record, Stamp] | None:
        found = [
            (record, stamp)
            for record in view.networks.values()
            for stamp in mapping.stamps(record.map("other_config")).values()
            if stamp.kind == mapping.NETWORK and stamp.owner.artefact == owner.artefact
        ]
        return min(found, key=lambda each: each[0].uuid, default=None)

    def create_network(self, owner: OwnerTag, name: str, cidr: str) -> str:
        mapping.named(name)
        try:
            ip_network(cidr)
        except ValueError as e:
            raise Invalid(f"{cidr[:40]!r} is no address range: write one as 10.0.0.0/24") from e
        wish = json.dumps([name, cidr])
        found = self._network(self._view(), owner)
        if found is None:
            record = {
                "name_label": name,
                "name_description": "a network of fedctl",
                "MTU": "1500",
                "other_config": {owner.text(): mapping.NETWORK, mapping.WISH: wish},
                "bridge": "",
                "managed": True,
                "tags": [],
            }
            return self._api.record("network", self._api.text("network.create", record)).uuid
        net, stamp = found
        self._not_late(f"network {net.uuid}", owner, stamp.owner)
        if net.map("other_config").get(mapping.WISH) != wish:
            raise Conflict(f"site {self.site} has another network under this tag: {net.uuid}")
        self._stamped("network", net, stamp, owner)
        return net.uuid

    def find_network(self, owner: OwnerTag) -> Answer[str]:
        try:
            found = self._network(self._view(), owner)
        except (Busy, Unavailable) as e:
            return Unknown(why=str(e))
        return Absent() if found is None else Seen(found[0].uuid)

    def delete_network(self, owner: OwnerTag) -> None:
        """Conflict while a nic is on it."""
        found = self._network(self._view(), owner)
        if found is None:
            return
        net, stamp = found
        self._not_late(f"network {net.uuid}", owner, stamp.owner)
        try:
            self._api.call("network.destroy", net.ref)
        except NotFound:
            return
