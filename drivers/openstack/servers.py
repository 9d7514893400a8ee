"""Instances as Nova servers: made around ports and volumes, stopped at once, locked to fence them.

Nova starts what it creates. So a new server carries the tag `fedctl.new`; `find` stops it as soon
as it runs, and then calls it `fedctl.fresh` until it is first started for its owner. Its ports are
ours: they are made first (isolated where that is wished) and can go only after the server, so
`find` also removes the ports that a deleted server left. All marks that change are server tags,
because Nova lets them change while a server is locked.
"""

from collections.abc import Collection
from contextlib import suppress

from controlplane.domain.answer import Absent, Answer, Seen, Unknown
from controlplane.domain.errors import Busy, Conflict, Invalid, NotFound
from controlplane.domain.instance import (
    InstanceSeen,
    InstanceSpec,
    Manner,
    Power,
    Traits,
)
from controlplane.domain.owner import OwnerTag
from drivers.contract import Instances
from drivers.openstack import mapping
from drivers.openstack import traits as found
from drivers.openstack.base import Site
from drivers.openstack.mapping import Payload

RETIRED = "fedctl.retired"  # a tag of ports whose server was deleted by us


class Servers(Site, Instances):
    def reserve(self, owner: OwnerTag, promised: Collection[str] = ()) -> str | None:
        """None: the ports and the boot volume, made first, are what guards a create here."""
        del owner, promised
        return None

    # Looking.

    def find(self, owner: OwnerTag, anchor: str | None = None) -> Answer[InstanceSeen]:
        del anchor
        server = self._server(owner)
        ports = self._ports(owner)
        if server is not None:
            server = self._settled(server)
            volumes = [self._volume(ref) for ref in mapping.volume_refs(server)]
            return Seen(mapping.instance(server, volumes, ports))
        if self._hidden_servers():
            return Unknown(why="a part of the site's compute service does not answer")
        for port in ports:
            if RETIRED in port["tags"]:
                self._delete_port(port)
        return Absent()

    def _server(self, owner: OwnerTag) -> Payload | None:
        """The server of ours; the oldest, if a create that was thought lost made two."""
        found = list(self._servers(mapping.mark(owner.artefact)))
        return min(found, key=lambda s: (str(s.get("created")), str(s["id"])), default=None)

    def _present(self, owner: OwnerTag) -> Payload:
        server = self._server(owner)
        if server is None:
            site = self._client.site
            raise NotFound(f"there is no instance of {owner.artefact} at site {site}: look for it")
        return server

    def _ports(self, owner: OwnerTag) -> list[Payload]:
        """The ports of ours, in the order of the wish.

        The description of those that we made tells from the first; adopted ones keep their own.
        """
        mark = mapping.mark(owner.artefact)
        found: dict[str, Payload] = {}
        for query in ({"description": mark}, {"tags": mark}):
            listed = self._client.listing("network", "/ports", "ports", what="ports", params=query)
            found |= {str(port["id"]): port for port in listed}
        return sorted(found.values(), key=mapping.port_number)

    def _volume(self, ref: str) -> Payload:
        """A volume of a server; one that is gone all the same has no size."""
        path, what = f"/volumes/{ref}", f"volume {ref}"
        return self._client.find("block_storage", path, "volume", what=what) or {"id": ref}

    def _settled(self, server: Payload) -> Payload:
        """Take the step that is due for a new server: stop it, then call it fresh."""
        tags = server.get("tags") or ()
        if mapping.NEW not in tags or mapping.task(server):
            return server
        if mapping.power(server) is Power.ON:
            with suppress(Busy, Conflict):  # it is on its way down already
                self._act(server, {"os-stop": None})
        elif mapping.power(server) is Power.OFF:
            self._tag(server, mapping.FRESH)
            self._untag(server, mapping.NEW)
        return server

    def traits(self, owner: OwnerTag) -> Traits:
        server = self._present(owner)
        held = mapping.volume_refs(server)
        volumes = [self._volume(ref) for ref in held]
        taken = self._client.listing(
            "block_storage", "/snapshots/detail", "snapshots", what="snapshots"
        )
        snapshots = [each for each in taken if str(each.get("volume_id")) in held]
        return found.traits(server, volumes, self._ports(owner), snapshots)

    # Making.

    def create(self, owner: OwnerTag, spec: InstanceSpec) -> str:
        self._named(spec.name)
        if not 1 <= len(spec.disks) <= self.limits.disks_max or not spec.disks[0].volume:
            raise Invalid(f"instance {spec.name}: it needs a volume to boot from; make one first")
        flavor = self._flavor(spec)
        if (server := self._server(owner)) is not None:
            return self._repeated(owner, spec, server)
        there = {mapping.port_number(port): port for port in self._ports(owner)}
        ports = [
            self._port(owner, spec, number, there.get(number)) for number in range(len(spec.nics))
        ]
        self._describe_boot(spec)
        wish = {
            "name": spec.name,
            "flavorRef": flavor["id"],
            "imageRef": "",
            "block_device_mapping_v2": mapping.block_devices(
                (disk.volume or "", disk.bus) for disk in spec.disks
            ),
            "networks": [{"port": port["id"]} for port in ports] or "none",
            "metadata": {mapping.OURS: owner.text()},
            "tags": [
                mapping.OURS,
                mapping.mark(owner.artefact),
                mapping.epoch_tag(owner.epoch),
                mapping.NEW,
            ],
            "config_drive": True,
        }
        if data := mapping.user_data(spec.ssh_keys, spec.user_data):
            wish["user_data"] = data
        what = f"instance {spec.name}"
        try:
            made = self._client.send(
                "compute", "POST", "/servers", {"server": wish}, "server", what=what
            )
        except (Conflict, Invalid) as e:
            # A create whose answer was lost holds the ports and the volume: then it is this one.
            if (server := self._server(owner)) is not None:
                return self._repeated(owner, spec, server)
            if self._hidden_servers():
                raise self._silent() from e
            raise
        return str(made["id"])

    def _flavor(self, spec: InstanceSpec) -> Payload:
        flavors = self._client.listing("compute", "/flavors/detail", "flavors", what="flavors")
        for flavor in flavors:
            fits = mapping.flavor_size(flavor) == spec.size
            if spec.sku in {None, flavor["name"]} and fits:
                return flavor
        wished = spec.sku or f"{spec.size.cpus} cpus and {spec.size.memory} bytes of memory"
        raise Invalid(
            f"instance {spec.name}: site {self._client.site} has no flavor {wished} of that size:"
            " choose one of its catalogue"
        )

    def _repeated(self, owner: OwnerTag, spec: InstanceSpec, server: Payload) -> str:
        """The same wish again changes nothing but the epoch."""
        what = f"instance {spec.name}"
        if mapping.task(server) == "deleting":
            raise Busy(
                f"{what} at site {self._client.site} is on its way out: wait until it is gone"
            )
        self._guard(what, owner, mapping.server_owner(server))
        wished = [disk.volume for disk in spec.disks]
        held = mapping.volume_refs(server)
        size = mapping.flavor_size(server.get("flavor") or {})
        flavor = (server.get("flavor") or {}).get("original_name")
        if (
            server.get("name") != spec.name
            or size != spec.size
            or spec.sku not in {None, flavor}
            or (held and held != wished)
        ):
            raise self._other_wish(what)
        self._stamp(owner, server)
        return str(server["id"])

    def _port(
        self, owner: OwnerTag, spec: InstanceSpec, number: int, port: Payload | None
    ) -> Payload:
        """The port of one nic, made once."""
        nic, what = spec.nics[number], f"nic {number} of {spec.name}"
        if port is None:
            wish: dict[str, object] = {
                "name": mapping.port_name(owner, number),
                "description": mapping.mark(owner.artefact),
                "network_id": nic.network,
                "admin_state_up": not nic.isolated,
            }
            if nic.mac:
                wish["mac_address"] = nic.mac
            if nic.address:
                wish["fixed_ips"] = [{"ip_address": nic.address}]
            port = self._client.send("network", "POST", "/ports", {"port": wish}, "port", what=what)
        if bool(port["admin_state_up"]) is nic.isolated:
            self._set_link(port, up=not nic.isolated)
        tags = [mapping.OURS, mapping.mark(owner.artefact), owner.text()]
        if not set(tags) <= set(port["tags"]) or RETIRED in port["tags"]:
            path = f"/ports/{port['id']}/tags"
            self._client.call("network", "PUT", path, {"tags": tags}, what=what)
        return port

    def _describe_boot(self, spec: InstanceSpec) -> None:
        """Nova reads firmware from the boot volume's image metadata."""
        if wished := mapping.firmware(spec.firmware):
            path = f"/volumes/{spec.disks[0].volume}/action"
            body = {"os-set_image_metadata": {"metadata": wished}}
            self._client.call("block_storage", "POST", path, body, what=f"firmware of {spec.name}")

    # Changing.

    def set_power(self, owner: OwnerTag, power: Power, manner: Manner = Manner.GRACEFUL) -> None:
        """Nova has one way to stop: it asks the guest, and cuts the power after its timeout."""
        del manner
        server = self._ours(owner)
        going = mapping.task(server)
        if power is Power.OFF:
            if mapping.power(server) is Power.OFF or going == "powering-off":
                return
            self._idle(server)
            self._act(server, {"os-stop": None})
            return
        if mapping.is_fenced(server):
            raise Conflict(
                f"instance {server['name']} at site {self._client.site} is fenced: unfence it first"
            )
        if going != "powering-on":
            self._idle(server)
        for tag in (mapping.NEW, mapping.FRESH):
            self._untag(server, tag)
        if mapping.power(server) is Power.OFF:
            self._act(server, {"os-start": None})

    def delete(self, owner: OwnerTag) -> None:
        server = self._server(owner)
        ports = self._ports(owner)
        if server is None:
            if not self._hidden_servers():
                for port in ports:
                    self._guard(f"nic {port['id']}", owner, mapping.port_owner(port))
                    self._delete_port(port)
            return
        what = f"instance {server['name']}"
        self._guard(what, owner, mapping.server_owner(server))
        if mapping.task(server) == "deleting":
            return
        self._stopped(server)
        self._stamp(owner, server)
        for port in ports:
            if RETIRED not in port["tags"]:
                path = f"/ports/{port['id']}/tags/{RETIRED}"
                self._client.call("network", "PUT", path, what=what)
        if server.get("locked"):
            self._act(server, {"unlock": None})
        path = f"/servers/{server['id']}"
        self._client.call("compute", "DELETE", path, what=what, accept=(404,))

    def isolate_nics(self, owner: OwnerTag) -> None:
        if (server := self._server(owner)) is not None:
            self._stamp(owner, server)
            self._link(owner, up=False)

    def connect_nics(self, owner: OwnerTag) -> None:
        self._ours(owner)
        self._link(owner, up=True)

    def give_up_nics(self, owner: OwnerTag) -> bool:
        """Neutron lets no two ports of a network have one MAC or address: ours go.

        Members may delete a port only once Nova has let it go, which it does not do for a locked
        server: a fenced one is unlocked for as long as that takes, with its ports switched off.
        """
        server = self._server(owner)
        ports = self._ports(owner)
        for port in ports:
            self._guard(f"nic {port['id']}", owner, mapping.port_owner(port))
        bound = [port for port in ports if port.get("device_id")]
        if server is not None:
            self._stopped(server)
            self._stamp(owner, server)
            if bound:
                self._link(owner, up=False)
                self._unplug(server, bound)
                return False
        for port in ports:
            self._delete_port(port)
        if server is not None and mapping.FENCED in server["tags"] and not server.get("locked"):
            self._act(server, {"lock": None})
        return True

    def _unplug(self, server: Payload, ports: list[Payload]) -> None:
        if server.get("locked"):
            self._act(server, {"unlock": None})
        for port in ports:
            path = f"/servers/{server['id']}/os-interface/{port['id']}"
            what = f"nic {port['mac_address']} of instance {server['name']}"
            self._client.call("compute", "DELETE", path, what=what, accept=(404,))

    def _link(self, owner: OwnerTag, *, up: bool) -> None:
        for port in self._ports(owner):
            if bool(port["admin_state_up"]) is not up:
                self._set_link(port, up=up)

    def _set_link(self, port: Payload, *, up: bool) -> None:
        path, body = f"/ports/{port['id']}", {"port": {"admin_state_up": up}}
        self._client.call("network", "PUT", path, body, what=f"nic {port['mac_address']}")

    def _stopped(self, server: Payload) -> None:
        """Conflict while it runs for its owner."""
        if mapping.power(server) is Power.ON and mapping.NEW not in server["tags"]:
            what = f"instance {server['name']}"
            raise Conflict(f"{what} at site {self._client.site} runs: stop it first")

    def _ours(self, owner: OwnerTag) -> Payload:
        """The server, once it is known that this epoch may change it."""
        server = self._present(owner)
        self._stamp(owner, server)
        return server

    def _stamp(self, owner: OwnerTag, server: Payload) -> None:
        """Raise the stamp of a server, if it is lower; the highest epoch tag is the stamp."""
        what = f"instance {server['name']}"
        if self._guard(what, owner, mapping.server_owner(server)):
            self._tag(server, mapping.epoch_tag(owner.epoch))
            for old in mapping.old_epochs(server, owner.epoch):
                self._untag({**server, "tags": [old]}, old)

    def _idle(self, server: Payload) -> None:
        if server.get("status") == "BUILD" or mapping.task(server):
            doing = mapping.task(server) or "being built"
            raise Busy(
                f"instance {server['name']} at site {self._client.site} is {doing}: wait for that"
            )

    def _act(self, server: Payload, action: dict[str, object]) -> None:
        what = f"instance {server['name']}"
        self._client.call("compute", "POST", f"/servers/{server['id']}/action", action, what=what)

    def _tag(self, server: Payload, tag: str) -> None:
        path = f"/servers/{server['id']}/tags/{tag}"
        self._client.call("compute", "PUT", path, what=f"instance {server['name']}")

    def _untag(self, server: Payload, tag: str) -> None:
        if tag in (server.get("tags") or ()):
            path = f"/servers/{server['id']}/tags/{tag}"
            what = f"instance {server['name']}"
            self._client.call("compute", "DELETE", path, what=what, accept=(404,))

    def _delete_port(self, port: Payload) -> None:
        path = f"/ports/{port['id']}"
        self._client.call("network", "DELETE", path, what=f"port {port['id']}", accept=(404,))
