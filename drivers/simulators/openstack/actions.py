"""What one may do to a server: power, lock, console, image."""

import json
from typing import Any

from drivers.simulators.openstack.cinder import Cinder
from drivers.simulators.openstack.cloud import Cloud
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.lives import PAUSED, RUNNING, Lives
from drivers.simulators.openstack.server_view import ServerView
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record


def unlocked(server: Record, call: Call) -> None:
    """Refuse what a locked server refuses to all but administrators."""
    if server["locked"] and not call.admin:
        raise Refusal(409, f"Instance {server['id']} is locked")


def in_state(server: Record, states: set[str], what: str) -> None:
    """Refuse what may only be done in one of the `states`, with no task going on."""
    if server["vm_state"] not in states:
        raise Refusal(
            409,
            f"Cannot '{what}' instance {server['id']} while it is in vm_state {server['vm_state']}",
        )
    if server["task_state"] is not None:
        raise Refusal(
            409,
            f"Cannot '{what}' instance {server['id']} while it is in"
            f" task_state {server['task_state']}",
        )


class Actions:
    """The actions of servers, by the name that a request gives."""

    def __init__(
        self, cloud: Cloud, view: ServerView, lives: Lives, cinder: Cinder, images: ImageStore
    ) -> None:
        self._cloud = cloud
        self._world = cloud.world
        self._view, self._lives, self._cinder, self._images = view, lives, cinder, images
        self._acts = {
            "os-stop": self._stop,
            "os-start": self._start,
            "reboot": self._reboot,
            "pause": self._pause,
            "unpause": self._unpause,
            "lock": self._lock,
            "unlock": self._unlock,
            "createImage": self._create_image,
            "os-getConsoleOutput": self._console,
        }

    def add_routes(self, routes: Routes, root: str) -> None:
        routes.add("POST", root + "/{ident}/action", self._action)

    def _action(self, call: Call, ident: str) -> Reply:
        server = self._view.server(call, ident)
        wish = call.json()
        name, args = next(iter(wish.items()), ("", None))
        if server["task_state"] == "scheduling" and name != "os-getConsoleOutput":
            raise Refusal(404, f"Instance {ident} could not be found.")
        act = self._acts.get(name)
        if act is None:
            raise Refusal(400, f"There is no such action: {name}")
        if name not in {"lock", "unlock", "os-getConsoleOutput"}:
            unlocked(server, call)
        with self._world.lock:
            return act(call, server, args or {})

    def _stop(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        del call, args
        in_state(server, {"active", "error"}, "stop")
        self._lives.set(server["id"], task_state="powering-off")
        self._world.later(0, "server.stop", ident=server["id"])
        return Reply(status=202)

    def _start(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        del call, args
        in_state(server, {"stopped"}, "start")
        self._lives.set(server["id"], task_state="powering-on")
        self._cloud.step("server.start", ident=server["id"])
        return Reply(status=202)

    def _reboot(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        del call
        hard = args.get("type") == "HARD"
        in_state(server, {"active", *(("stopped", "error") if hard else ())}, "reboot")
        self._lives.set(server["id"], task_state="rebooting_hard" if hard else "rebooting")
        self._cloud.step("server.reboot", ident=server["id"], hard=hard)
        return Reply(status=202)

    def _pause(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        del call, args
        in_state(server, {"active"}, "pause")
        self._cloud.guests.pause(server["id"])
        self._lives.set(server["id"], status="PAUSED", vm_state="paused", power_state=3)
        return Reply(status=202)

    def _unpause(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        del call, args
        in_state(server, {"paused"}, "unpause")
        self._cloud.guests.resume(server["id"])
        self._lives.set(server["id"], status="ACTIVE", vm_state="active", power_state=1)
        return Reply(status=202)

    def _lock(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        reason = args.get("locked_reason")
        if reason and call.version < (2, 73):
            raise Refusal(
                400, "Additional properties are not allowed ('locked_reason' was unexpected)"
            )
        self._lives.set(server["id"], locked=True, locked_reason=reason)
        return Reply(status=202)

    def _unlock(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        del call, args
        self._lives.set(server["id"], locked=False, locked_reason=None)
        return Reply(status=202)

    def _console(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        del call
        if server["power_state"] not in {RUNNING, PAUSED}:
            raise Refusal(404, "Guest does not have a console available.")
        lines = self._lives.console(server["id"]).splitlines(keepends=True)
        length = args.get("length")
        if length is not None:
            lines = lines[-int(length) :] if int(length) else []
        return Reply(status=200, body={"output": "".join(lines)})

    def _create_image(self, call: Call, server: Record, args: dict[str, Any]) -> Reply:
        in_state(server, {"active", "stopped", "paused"}, "createImage")
        extra = {"image_type": "snapshot", **(args.get("metadata") or {})}
        if not server["volumes"]:
            image = self._images.add(
                call.project,
                args["name"],
                disk_format="qcow2",
                container_format="bare",
                extra=extra,
            )
            self._lives.set(server["id"], task_state="image_snapshot")
            self._cloud.step("server.image", ident=server["id"], image=image["id"])
        else:
            image = self._volume_backed_image(call, server, args["name"], extra)
        where = {"Location": f"{call.base}/image/v2/images/{image['id']}"}
        if call.version >= (2, 45):
            return Reply(status=202, body={"image_id": image["id"]}, headers=where)
        return Reply(status=202, headers=where)

    def _volume_backed_image(
        self, call: Call, server: Record, name: str, extra: dict[str, Any]
    ) -> Record:
        """An image without bytes, whose mapping names a snapshot of each volume."""
        mapping = []
        for number, held in enumerate(server["volumes"]):
            volume = self._world.get("volume", held["volume_id"])
            assert volume is not None  # noqa: S101  # attached volumes cannot go
            snapshot = self._cinder.snapshots.make(call, volume, f"snapshot for {name}", {})
            mapping.append(
                {
                    "boot_index": number,
                    "source_type": "snapshot",
                    "destination_type": "volume",
                    "snapshot_id": snapshot["id"],
                    "volume_size": volume["size"],
                    "delete_on_termination": held["delete_on_termination"],
                    "device_name": held["device"],
                    "disk_bus": "virtio",
                    "device_type": "disk",
                    "no_device": None,
                    "image_id": None,
                    "volume_id": None,
                    "guest_format": None,
                    "tag": None,
                    "volume_type": None,
                }
            )
        extra = {
            **extra,
            "bdm_v2": "True",
            "root_device_name": "/dev/vda",
            "block_device_mapping": json.dumps(mapping),
        }
        return self._images.add(
            call.project,
            name,
            status="active",
            size=0,
            disk_format="qcow2",
            container_format="bare",
            checksum="d41d8cd98f00b204e9800998ecf8427e",
            extra=extra,
        )
