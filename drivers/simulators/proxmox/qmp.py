"""The QMP socket of a running VM: one JSON object a line, one client at a time."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from drivers.simulators.proxmox.live import Live, QmpError
from drivers.simulators.proxmox.node import Node, Vm

_GREETING = {
    "QMP": {"version": {"qemu": {"major": 10, "minor": 1, "micro": 2}}, "capabilities": []}
}


class Reader(Protocol):
    async def readline(self) -> bytes: ...


class Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...


class Monitor:
    """One client's session."""

    def __init__(self, node: Node, vm: Vm, live: Live) -> None:
        self._node, self._vm, self._live = node, vm, live
        self._negotiated = False

    async def serve(self, reader: Reader, writer: Writer) -> None:
        self._say(writer, _GREETING)
        while line := await reader.readline():
            self._say(writer, self._answer(line))
            await writer.drain()

    @staticmethod
    def _say(writer: Writer, answer: Mapping[str, Any]) -> None:
        writer.write(json.dumps(answer).encode() + b"\r\n")

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            order = json.loads(line)
            command, arguments = order["execute"], order.get("arguments", {})
        except (ValueError, KeyError, TypeError):
            return _error(QmpError("JSON parse error, invalid keyword"))
        try:
            if command == "qmp_capabilities":
                self._negotiated = True
                return {"return": {}}
            if not self._negotiated:
                return _error(QmpError("Expecting capabilities negotiation", "CommandNotFound"))
            return {"return": self._do(command, arguments)}
        except QmpError as error:
            return _error(error)
        except (KeyError, TypeError) as error:
            return _error(QmpError(f"Parameter {error} is missing"))

    def _do(self, command: str, given: dict[str, Any]) -> Any:
        live = self._live
        commands: dict[str, Callable[[], Any]] = {
            "query-block": self._block,
            "query-named-block-nodes": self._nodes,
            "query-block-jobs": lambda: [
                {"device": job, "type": "backup", "status": "running"} for job in live.jobs()
            ],
            "query-block-exports": lambda: [
                {"id": name, "type": "nbd", "node-name": "", "shutting-down": False}
                for name in live.exports
            ],
            "query-status": lambda: {
                "running": not self._vm.suspended,
                "status": "paused" if self._vm.suspended else "running",
            },
            "blockdev-add": lambda: live.add_scrap(
                given["node-name"], given["file"]["filename"], given["backing"]
            ),
            "blockdev-del": lambda: live.drop_scrap(given["node-name"]),
            "transaction": lambda: self._transaction(given["actions"]),
            "block-job-cancel": lambda: live.cancel(given["device"]),
            "block-dirty-bitmap-remove": lambda: live.drop_bitmap(given["node"], given["name"]),
            "nbd-server-start": lambda: live.serve(given["addr"]["data"]["path"]),
            "block-export-add": lambda: live.export(
                given["id"], given["node-name"], given.get("bitmaps", [])
            ),
            "block-export-del": lambda: live.drop_export(given["id"]),
            "stop": self._stop,
            "cont": self._go_on,
        }
        if command not in commands:
            raise QmpError(f"The command {command} has not been found", "CommandNotFound")
        done = commands[command]()
        return {} if done is None else done

    def _block(self) -> list[dict[str, Any]]:
        with self._live.lock:
            return [
                {
                    "device": "",
                    "qdev": slot,
                    "inserted": {
                        "node-name": drive.node,
                        "image": {"virtual-size": drive.size},
                        "dirty-bitmaps": [
                            {
                                "name": name,
                                "recording": bitmap.recording,
                                "granularity": 65536,
                                "count": len(bitmap.dirty) << 16,
                            }
                            for name, bitmap in drive.bitmaps.items()
                        ],
                    },
                }
                for slot, drive in self._live.drives.items()
            ]

    def _nodes(self) -> list[dict[str, Any]]:
        drives = [drive.node for drive in self._live.drives.values()]
        return [{"node-name": name} for name in (*drives, *self._live.scraps)]

    def _transaction(self, actions: list[dict[str, Any]]) -> None:
        """All at one moment, or none."""
        with self._live.lock:
            for do in [self._live.checked(a["type"], a["data"]) for a in actions]:
                do()

    def _stop(self) -> None:
        if not self._vm.suspended:
            self._node.pause(self._vm)
            self._vm.suspended = True

    def _go_on(self) -> None:
        if self._vm.suspended:
            self._vm.suspended = False
            self._node.unpause(self._vm)


def _error(error: QmpError) -> dict[str, Any]:
    return {"error": {"class": error.kind, "desc": str(error)}}
