"""Nics of servers: interfaces in vRacks, and additional addresses that are routed to a server.

The interfaces and their MACs are the hardware's own. A nic on a vRack is the server's next private
interface, and is isolated by taking it out of the vRack; a nic on the public network is an
additional address, which is routed to the server or parked. The server's own public address belongs
to no nic of ours: rescue is reached by it.
"""

from dataclasses import dataclass, replace

from controlplane.domain.errors import Busy, Conflict, Invalid, NotFound
from controlplane.domain.network import NicSeen
from controlplane.domain.owner import OwnerTag
from drivers.contract import Instances
from drivers.ovhcloud import mapping
from drivers.ovhcloud.base import OvhBase, Rented
from drivers.ovhcloud.client import part, translated
from drivers.ovhcloud.mapping import NicNote


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A private interface of a server, and the vRack that it is in now."""

    uuid: str
    mac: str
    vrack: str | None


class OvhNics(OvhBase, Instances):
    def isolate_nics(self, owner: OwnerTag) -> None:
        rented = self._lookup(owner)
        if rented is None:
            return
        self._not_late(f"server {rented.name}", owner, rented.owner)
        rented = self._wished(self._stamped(rented, owner), isolated=True)
        self._settle(rented, self._now(rented))

    def connect_nics(self, owner: OwnerTag) -> None:
        rented = self._stamped(self._mine(owner), owner)
        if rented.notes.fenced:
            raise Conflict(f"server {rented.name} at {self.site} is fenced: unfence it first")
        rented = self._wished(rented, isolated=False)
        self._settle(rented, self._now(rented))

    def give_up_nics(self, owner: OwnerTag) -> bool:
        """Isolated nics are nobody's: their vRack and addresses are free for another server."""
        rented = self._lookup(owner)
        if rented is None:
            return True
        self._not_late(f"server {rented.name}", owner, rented.owner)
        boot = rented.notes.boot
        if boot is not None and boot.mode == mapping.HARDDISK:
            raise Conflict(
                f"server {rented.name} at {self.site} is running: stop it before giving up its nics"
            )
        rented = self._wished(rented, isolated=True)
        now = self._now(rented)
        if not self._unsettled(rented, now):
            return True
        self._settle(rented, now)
        return False

    # -- inside --------------------------------------------------------------------------------

    def _wished(self, rented: Rented, *, isolated: bool) -> Rented:
        nics = {
            f"{mapping.NIC}-{n}": replace(nic, isolated=isolated).text()
            for n, nic in enumerate(rented.notes.nics)
        }
        return self._tag(rented, nics)

    def _interfaces(self, rented: Rented) -> list[Interface]:
        """The server's private interfaces in an order that does not change."""
        path = f"{rented.path}/virtualNetworkInterface"
        found = []
        with translated(f"site {self.site}: interfaces of {rented.name}"):
            for uuid in sorted(str(each) for each in self._api.get(path, mode="vrack")):
                told = self._api.get(f"{path}/{part(uuid)}")
                macs = told["networkInterfaceController"]
                found.append(Interface(uuid=uuid, mac=str(macs[0]).lower(), vrack=told["vrack"]))
        return found

    def _now(self, rented: Rented) -> list[tuple[NicNote, NicSeen, Interface | None]]:
        """Each nic as it is to be, as it is, and the interface that it has."""
        nics = rented.notes.nics
        if not nics:
            return []
        interfaces = iter(self._interfaces(rented))
        found: list[tuple[NicNote, NicSeen, Interface | None]] = []
        for nic in nics:
            if nic.network == mapping.PUBLIC:
                mac, on, interface = "", self._routed(rented, nic.address or ""), None
            else:
                interface = next(interfaces, None)
                if interface is None:
                    raise Invalid(self._too_few(rented))
                mac, on = interface.mac, interface.vrack == nic.network
            seen = NicSeen(network=nic.network, mac=mac, address=nic.address, isolated=not on)
            found.append((nic, seen, interface))
        return found

    def _enough(self, rented: Rented, nics: tuple[NicNote, ...]) -> None:
        """Invalid when the server has fewer private interfaces than are wished."""
        private = sum(nic.network != mapping.PUBLIC for nic in nics)
        if private and private > len(self._interfaces(rented)):
            raise Invalid(self._too_few(rented))

    def _too_few(self, rented: Rented) -> str:
        return (
            f"server {rented.name} at {self.site} has fewer private interfaces than nics are"
            " wished: wish for fewer"
        )

    def _unsettled(
        self, rented: Rented, now: list[tuple[NicNote, NicSeen, Interface | None]]
    ) -> list[tuple[NicNote, NicSeen, Interface | None]]:
        fenced = rented.notes.fenced
        return [each for each in now if each[1].isolated is not (each[0].isolated or fenced)]

    def _settle(self, rented: Rented, now: list[tuple[NicNote, NicSeen, Interface | None]]) -> None:
        """Have every nic become what it is to be; Busy while an earlier change is under way."""
        for nic, seen, interface in self._unsettled(rented, now):
            try:
                if interface is not None:
                    self._plug(nic, interface, on=seen.isolated)
                else:
                    self._route(rented, nic.address or "", on=seen.isolated)
            except Conflict as e:
                raise Busy(
                    f"a nic of server {rented.name} at {self.site} is changing: ask again"
                ) from e

    def _plug(self, nic: NicNote, interface: Interface, *, on: bool) -> None:
        path = f"/vrack/{part(interface.vrack or nic.network)}/dedicatedServerInterface"
        if interface.vrack is not None:  # also out of one that is not the wished one
            try:
                self._api.delete(f"{path}/{part(interface.uuid)}")
            except NotFound:
                return  # it is out, and its own record lags behind
        elif on:
            self._api.post(path, {"dedicatedServerInterface": interface.uuid})

    def _routed(self, rented: Rented, address: str) -> bool:
        told = self._api.get(f"/ip/{part(mapping.block(address))}")
        with translated(f"site {self.site}: address {address}"):
            return (told["routedTo"] or {}).get("serviceName") == rented.name

    def _route(self, rented: Rented, address: str, *, on: bool) -> None:
        path = f"/ip/{part(mapping.block(address))}"
        if on:
            self._api.post(f"{path}/move", {"to": rented.name})
        else:
            self._api.post(f"{path}/park")
