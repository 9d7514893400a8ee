"""The HTTPS side of a simulated node: calls in, reason phrases out, faults between."""

import json
import re
import secrets
import socket
import ssl
import struct
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from drivers.simulators.faults import Call, Direction, Fault, Garbage, Hang, LostAnswer, Reset
from drivers.simulators.faults import Status as InjectedStatus
from drivers.simulators.http import Handler, HttpServer
from drivers.simulators.proxmox import cluster, contents, multipart, snapshots, vms
from drivers.simulators.proxmox.access import Caller
from drivers.simulators.proxmox.multipart import Body, Broken
from drivers.simulators.proxmox.node import Node
from drivers.simulators.proxmox.params import Refused, checked
from drivers.simulators.proxmox.routes import Ask, Upload, vmid_of

_ROUTES = (*cluster.ROUTES, *contents.ROUTES, *vms.ROUTES, *snapshots.ROUTES)
_BULK = re.compile(r".*/(upload|download-url)$")
_LISTS = re.compile(r".*/(qemu|content|resources|tasks|storage|nodes)$")


def api_server(node: Node, *, port: int, certificate: Path, key: Path) -> HttpServer[Node]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return HttpServer(_Handler, node, name=f"api-{node.name}", port=port, tls=tls)


class _Handler(Handler[Node]):
    server_version = "pve-api-daemon/3.0"
    wbufsize = -1

    def do_GET(self) -> None:
        self._served()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  # the base class's names

    def _served(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        call = _class_of(self.command, path)
        faults = self.server.site.faults
        changes = self.command != "GET" and call is not Call.LOGIN
        fault = faults.next_for(self.command, path, changes=changes)
        time.sleep(faults.latency(call))
        if fault is not None and not isinstance(fault, LostAnswer):
            self._misbehave(fault)
            return
        try:
            data = self._answered(path, parts.query)
            status, reason, body = 200, "OK", {"data": data}
        except Refused as refused:
            status, reason = refused.code, refused.reason
            body = {"data": None, "message": reason + "\n"}
            if refused.errors:
                body["errors"] = refused.errors
        if isinstance(fault, LostAnswer):
            raise Broken
        self._send(status, reason, json.dumps(body).encode(), "application/json;charset=UTF-8")

    def _misbehave(self, fault: Fault) -> None:
        self.close_connection = True
        if isinstance(fault, Hang):
            self.server.ending.wait()
            raise Broken
        if isinstance(fault, Reset):
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            raise Broken
        if isinstance(fault, Garbage):
            self._send(200, "OK", fault.body, "application/json;charset=UTF-8")
        elif isinstance(fault, InjectedStatus):
            self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1 << 20))
            self._send(fault.code, fault.reason, fault.body, "application/json", fault.headers)

    def _send(self, status: int, reason: str, body: bytes, kind: str, headers: Any = None) -> None:
        self.send_response(status, reason.replace("\n", " ").strip() or HTTPStatus(status).phrase)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=0")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    # -- one call ------------------------------------------------------------------------------

    def _answered(self, path: str, query: str) -> Any:
        node = self.server.site
        upload: Upload | None = None
        given = dict(parse_qsl(query, keep_blank_values=True))
        kind = self.headers.get("Content-Type", "")
        length = int(self.headers.get("Content-Length") or 0)
        try:
            if kind.startswith("multipart/form-data"):
                fields, upload = self._received(kind, length)
                given |= fields
            else:
                given |= _fields(self.rfile.read(length), kind)
            prefix, _, rest = path.partition("/api2/json")
            if prefix or not rest:
                raise Refused(501, f"no such file '{path}'")
            if rest == "/access/ticket" and self.command == "POST":
                return self._ticket(given)
            data = self._routed(node, self._caller(), rest, given, upload)
            for observe in node.observers:
                observe(self.command, rest, given, data)
            return data
        finally:
            if upload is not None:
                upload.file.unlink(missing_ok=True)

    def _routed(
        self, node: Node, caller: Caller, path: str, given: dict[str, str], upload: Upload | None
    ) -> Any:
        for route in _ROUTES:
            match = route.path.fullmatch(path) if route.method == self.command else None
            if match is None:
                continue
            at = match.groupdict()
            if (there := at.get("node", node.name)) != node.name:
                known = there in node.peers
                raise Refused(
                    595 if known else 500,
                    "No route to host" if known else f"hostname lookup '{there}' failed",
                )
            if "vmid" in at:
                vmid_of(at["vmid"])
            return route.handler(Ask(node=node, caller=caller, at=at, given=given, upload=upload))
        raise Refused(501, f"Method '{self.command} {path}' not implemented")

    def _caller(self) -> Caller:
        cookies = dict(
            part.strip().partition("=")[::2]
            for part in self.headers.get("Cookie", "").split(";")
            if "=" in part
        )
        return self.server.site.access.caller(
            authorization=self.headers.get("Authorization", ""),
            ticket=unquote(cookies.get("PVEAuthCookie", "")),
            csrf=self.headers.get("CSRFPreventionToken", ""),
            changes=self.command != "GET",
        )

    def _received(self, kind: str, length: int) -> tuple[dict[str, str], Upload]:
        node, done = self.server.site, 0

        def passed(data: bytes) -> bytes:
            nonlocal done
            time.sleep(node.faults.transfer_seconds(len(data)))
            done += len(data)
            return node.faults.passed(Direction.IN, done - len(data), data)

        target = node.folder / f"upload-{secrets.token_hex(8)}"
        return multipart.received(Body(self.rfile, length), kind=kind, target=target, passed=passed)

    def _ticket(self, given: dict[str, str]) -> dict[str, Any]:
        checked(given, required=("username", "password"))
        user = given["username"]
        if "@" not in user:
            user = f"{user}@{given.get('realm', 'pam')}"
        made = self.server.site.access.log_in(user, given["password"])
        if made is None:
            time.sleep(self.server.site.profile.login_failure_seconds)
            raise Refused(401, "authentication failure")
        ticket, csrf = made
        return {"username": user, "ticket": ticket, "CSRFPreventionToken": csrf, "cap": {}}


def _fields(body: bytes, kind: str) -> dict[str, str]:
    if kind.startswith("application/json"):
        try:
            values = json.loads(body or b"{}")
        except ValueError as error:
            raise Refused(400, "Bad JSON") from error
        return {key: _text(value) for key, value in values.items()}
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _class_of(method: str, path: str) -> Call:
    if path.endswith("/access/ticket"):
        return Call.LOGIN
    if _BULK.match(path):
        return Call.BULK
    if method != "GET":
        return Call.WRITE
    return Call.LIST if _LISTS.match(path) else Call.READ
