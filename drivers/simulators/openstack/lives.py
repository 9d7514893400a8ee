"""What compute does after it said yes: servers are built, started, stopped; guests run."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drivers.simulators.guest import Disk, Nic
from drivers.simulators.openstack import qcow2
from drivers.simulators.openstack.cloud import GIB, Cloud
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.neutron import Neutron
from drivers.simulators.openstack.volumes import Volumes
from drivers.simulators.openstack.world import Record, stamp

RUNNING, PAUSED, SHUTDOWN, NOSTATE = 1, 3, 4, 0


class Lives:
    """The asynchronous half of nova."""

    def __init__(
        self, cloud: Cloud, images: ImageStore, volumes: Volumes, neutron: Neutron
    ) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._images = images
        self._volumes = volumes
        self._neutron = neutron
        self._printed: dict[str, str] = {}
        act = self._world.action
        act("server.schedule", self._schedule)
        act("server.spawn", self._spawn)
        act("server.active", self._active)
        act("server.stop", self._stop)
        act("server.off", self._off)
        act("server.start", self._start)
        act("server.reboot", self._reboot)
        act("server.delete", self._delete)
        act("server.nics", self.show_nics)
        act("server.attach", self._attach)
        act("server.detach", self._detach)
        act("server.unplug", self._unplug)
        act("server.image", self._image)

    def resume(self) -> None:
        """Run the guests of the servers that are on, as a host does that comes back."""
        for server in self._world.where("server", power_state=RUNNING):
            if not self._cloud.guests.is_on(server["id"]):
                self._run_guest(server)

    def set(self, ident: str, **fields: Any) -> None:
        self._world.update("server", ident, updated=stamp() + "Z", **fields)

    def path(self, server: Record) -> Path | None:
        """The boot disk's file."""
        boot = next(iter(server["volumes"]), None)
        if boot is not None:
            return self._volumes.path(str(boot["volume_id"]))
        return self._world.folder_of("instances") / str(server["id"])

    def nics(self, server: Record) -> tuple[Nic, ...]:
        ports = [p for i in server["ports"] if (p := self._world.get("port", i))]
        return tuple(
            Nic(
                mac=port["mac_address"],
                address=next((f["ip_address"] for f in port["fixed_ips"]), None),
                connected=bool(port["admin_state_up"]),
            )
            for port in ports
        )

    def show_nics(self, ident: str) -> None:
        """Let a running guest see what became of its links."""
        server = self._world.get("server", ident)
        if server and self._cloud.guests.is_on(ident):
            self._cloud.guests.set_nics(ident, self.nics(server))

    # building

    def _schedule(self, ident: str) -> None:
        server = self._world.get("server", ident)
        if server is None:
            return None
        bound = self._cloud.knobs.host_memory
        others = [s for s in self._world.all("server") if s["host"]]
        used = sum(s["flavor"]["ram"] for s in others)
        if bound is not None and used + server["flavor"]["ram"] > bound:
            return self._fail(
                ident, "No valid host was found. There are not enough hosts available."
            )
        if self._cloud.build_faults:
            return self._fail(ident, self._cloud.build_faults.pop(0))
        self.set(ident, task_state="networking", host="kvm1")
        self._cloud.step("server.spawn", ident=ident)
        return None

    def _fail(self, ident: str, why: str) -> None:
        fault = {"code": 500, "created": stamp() + "Z", "message": why}
        self.set(ident, status="ERROR", vm_state="error", task_state=None, fault=fault)
        server = self._world.get("server", ident)
        for held in server["volumes"] if server else ():
            self._release_volume(held, ident)
        if server:
            self._release_ports(server)
            self.set(ident, volumes=[], ports=[])

    def _spawn(self, ident: str) -> None:
        server = self._world.get("server", ident)
        if server is None:
            return
        if (taken := self._taken_port(server)) is not None:
            self._fail(ident, f"Port {taken} is still in use.")
            return
        for port in server["ports"]:
            self._neutron.bind(port, device_id=ident, device_owner="compute:nova")
        for held in server["volumes"]:
            self._volumes.touch(held["volume_id"], status="attaching")
        self.set(ident, task_state="spawning")
        if not server["volumes"]:
            try:
                self._local_disk(server)
            except (ValueError, FileNotFoundError) as e:
                self._fail(ident, f"Image {server['image']['id']} is unacceptable: {e}")
                return
        self._cloud.step("server.active", ident=ident)

    def _taken_port(self, server: Record) -> str | None:
        """A port that another server took since this one was accepted, or that is gone."""
        for ident in server["ports"]:
            port = self._world.get("port", ident)
            if port is None or port["device_id"] not in {"", server["id"]}:
                return str(ident)
        return None

    def _local_disk(self, server: Record) -> None:
        image = self._world.get("image", server["image"]["id"])
        target = self.path(server)
        assert target is not None  # noqa: S101  # a server has a place for its disk
        if image is None:
            raise ValueError("Image could not be found")
        source, size = self._images.path(image["id"]), server["flavor"]["disk"] * GIB
        if image["disk_format"] == "qcow2":
            qcow2.to_raw(source, target, size, self._cloud.stopped)
        else:
            size = max(size, source.stat().st_size)
            qcow2.copy_sparse(source, target, size, self._cloud.stopped)

    def _active(self, ident: str) -> None:
        server = self._world.get("server", ident)
        if server is None or server["task_state"] == "deleting":
            return
        for number, held in enumerate(server["volumes"]):
            self._hold(held["volume_id"], held, server, number)
        self._plug(server)
        self._run_guest(server)
        self.set(
            ident,
            status="ACTIVE",
            vm_state="active",
            task_state=None,
            power_state=RUNNING,
            launched_at=stamp(micro=True),
        )

    def _hold(self, volume: str, held: Record, server: Record, number: int) -> None:
        attachment = {
            "id": volume,
            "volume_id": volume,
            "attachment_id": held["attachment_id"],
            "server_id": server["id"],
            "host_name": None,
            "device": held["device"] or f"/dev/vd{chr(ord('a') + number)}",
            "attached_at": stamp(micro=True),
        }
        held["device"] = attachment["device"]
        self._volumes.touch(volume, status="in-use", attachments=[attachment])

    def _plug(self, server: Record) -> None:
        for ident in server["ports"]:
            port = self._world.get("port", ident)
            up = bool(port and port["admin_state_up"])
            self._neutron.bind(ident, plugged=True, status="ACTIVE" if up else "DOWN")

    def _run_guest(self, server: Record) -> None:
        path = self.path(server)
        disk = _FileDisk(path) if path and path.exists() else None
        self._printed[server["id"]] = self._cloud.guests.console(server["id"])
        self._cloud.guests.start(
            server["id"],
            name=server["hostname"],
            disk=Disk(read=disk.read, write=disk.write, flush=disk.flush) if disk else None,
            nics=self.nics(server),
        )

    def console(self, ident: str) -> str:
        """What the guest printed since its power-on: each start begins the log anew."""
        return self._cloud.guests.console(ident).removeprefix(self._printed.get(ident, ""))

    # power

    def _stop(self, ident: str) -> None:
        """Ask the guest; pull the plug when it does not answer in time."""
        server = self._world.get("server", ident)
        if server is None:
            return
        deaf = self._cloud.knobs.guest_ignores_acpi
        down = lambda: self._world.later(0, "server.off", ident=ident)  # noqa: E731  # what the guest calls
        if not deaf and self._cloud.guests.shutdown(ident, on_down=down):
            return
        patience = self._cloud.profile.shutdown_seconds * 3
        self._world.later(patience, "server.off", ident=ident)

    def _off(self, ident: str) -> None:
        self._cloud.guests.stop(ident)
        server = self._world.get("server", ident)
        if server is None or server["task_state"] == "deleting":
            return
        if server["task_state"] == "reboot_started":
            self._start(ident)
            return
        for port in server["ports"]:
            self._neutron.bind(port, plugged=False, status="DOWN")
        self.set(ident, status="SHUTOFF", vm_state="stopped", task_state=None, power_state=SHUTDOWN)

    def _start(self, ident: str) -> None:
        server = self._world.get("server", ident)
        if server is None or server["task_state"] == "deleting":
            return
        if not self._cloud.guests.is_on(ident):
            self._run_guest(server)
        self._plug(server)
        self.set(ident, status="ACTIVE", vm_state="active", task_state=None, power_state=RUNNING)

    def _reboot(self, ident: str, hard: bool) -> None:  # noqa: FBT001  # a task's argument, stored as JSON
        if self._world.get("server", ident) is None:
            return
        if hard:
            self._cloud.guests.stop(ident)
            self._start(ident)
        else:
            self.set(ident, task_state="reboot_started")
            self._stop(ident)

    # going away

    def _delete(self, ident: str) -> None:
        self._cloud.guests.stop(ident)
        server = self._world.get("server", ident)
        if server is None:
            return
        for held in server["volumes"]:
            self._release_volume(held, ident)
        self._release_ports(server)
        (self._world.folder_of("instances") / ident).unlink(missing_ok=True)
        self._world.drop("server", ident)

    def _release_volume(self, held: Record, server: str) -> None:
        volume = self._world.get("volume", held["volume_id"])
        if volume is None:
            return
        if any(a["server_id"] != server for a in volume["attachments"]):
            return
        self._volumes.touch(volume["id"], status="available", attachments=[])
        if held["delete_on_termination"]:
            self._volumes.touch(volume["id"], status="deleting")
            self._cloud.step("volume.delete", ident=volume["id"])

    def _release_ports(self, server: Record) -> None:
        for ident in server["ports"]:
            if ident in server["own_ports"]:
                self._neutron.drop_port(ident)
            elif (port := self._world.get("port", ident)) and port["device_id"] == server["id"]:
                self._neutron.bind(
                    ident, device_id="", device_owner="", status="DOWN", plugged=False
                )

    # volumes that come and go, images

    def _attach(self, ident: str, volume: str) -> None:
        server = self._world.get("server", ident)
        if server is None:
            return
        for number, held in enumerate(server["volumes"]):
            if held["volume_id"] == volume:
                self._hold(volume, held, server, number)
        self.set(ident)

    def _detach(self, ident: str, volume: str) -> None:
        server = self._world.get("server", ident)
        self._volumes.touch(volume, status="available", attachments=[])
        if server:
            kept = [held for held in server["volumes"] if held["volume_id"] != volume]
            self.set(ident, volumes=kept)

    def _unplug(self, ident: str, port: str) -> None:
        """A port that was made before the server is let go; one that Nova made goes with it."""
        server = self._world.get("server", ident)
        if server is None or port not in server["ports"]:
            return
        self._release_ports({**server, "ports": [port]})
        self.set(ident, ports=[p for p in server["ports"] if p != port])
        self._world.later(0, "server.nics", ident=ident)

    def _image(self, ident: str, image: str) -> None:
        """Fill an image from the local disk of a server."""
        server, record = self._world.get("server", ident), self._world.get("image", image)
        if server is None or record is None:
            return
        source = self.path(server)
        assert source is not None  # noqa: S101  # a server has a place for its disk
        qcow2.from_raw(source, self._images.path(image), self._cloud.stopped)
        self._images.activate(record)
        self.set(ident, task_state=None)

    @contextmanager
    def frozen(self, volume: str) -> Iterator[None]:
        """Hold the writes of the guest on a volume while somebody copies it."""
        servers = [
            s["id"]
            for s in self._world.where("server", power_state=RUNNING)
            if any(held["volume_id"] == volume for held in s["volumes"])
            and self._cloud.guests.is_on(s["id"])
        ]
        for ident in servers:
            self._cloud.guests.pause(ident)
        try:
            yield
        finally:
            for ident in servers:
                if self._cloud.guests.is_on(ident):
                    self._cloud.guests.resume(ident)


class _FileDisk:
    """A raw file as the guest's disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, offset: int, length: int) -> bytes:
        with self._path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def write(self, offset: int, data: bytes) -> None:
        with self._path.open("rb+") as file:
            os.pwrite(file.fileno(), data, offset)

    def flush(self) -> None:
        """Written is durable: the file outlives the simulator's process."""


def hostname(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63] or "server"
