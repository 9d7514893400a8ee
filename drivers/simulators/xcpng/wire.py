"""The HTTPS side of a simulated host: XML-RPC, raw disks, failures between."""

import re
import ssl
import time
import xmlrpc.client as xmlrpc
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.parsers.expat import ExpatError

from drivers.simulators.faults import Call, Fault, LostAnswer
from drivers.simulators.http import Handler, HttpServer
from drivers.simulators.xcpng import transfers, vhd
from drivers.simulators.xcpng.calls import answered, rendered
from drivers.simulators.xcpng.pool import Failure, Pool

_READS = re.compile(r"(session\.log.*|event\.from|.*\.get_.*|task\..*)")
_XML = {"Content-Type": "text/xml", "Connection": "close"}
_HALF = 1 << 20


@dataclass(frozen=True, slots=True)
class Host:
    """A host of the pool; one that is not the coordinator sends its clients there."""

    pool: Pool
    coordinator: str


def api_server(
    pool: Pool, *, address: str, port: int, tls: ssl.SSLContext, coordinator: str = ""
) -> HttpServer[Host]:
    return HttpServer(
        _Handler,
        Host(pool, coordinator),
        name=f"xapi-{pool.name}",
        port=port,
        address=address,
        tls=tls,
        hung_up=(OSError, EOFError, Failure),
    )


class _Handler(Handler[Host]):
    server_version = "xapi/26.1"

    def handle(self) -> None:
        self.connection.do_handshake()  # a TLS socket
        super().handle()

    # -- calls ---------------------------------------------------------------------------------

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path not in {"/", "/RPC2"}:
            self._plain(404, b"<html>not found</html>")
            return
        try:
            given, method = xmlrpc.loads(body, use_builtin_types=True)
        except (ExpatError, ValueError, xmlrpc.Error, TypeError, KeyError):
            self._plain(500, b"<html><body>HTTP 500 internal server error</body></html>")
            return
        name = str(method)
        plain = name.removeprefix("Async.")
        reads = _READS.fullmatch(plain) is not None
        failing = self.server.site.pool.faults.next_for("POST", f"/ {name}", changes=not reads)
        if failing is not None and not isinstance(failing, LostAnswer):
            self._failed(failing)
            return
        answer = self._answer(name, given, reads=reads)
        if isinstance(failing, LostAnswer):
            self.cut()
            return
        self._plain(200, xmlrpc.dumps((answer,), methodresponse=True).encode())

    def _answer(self, method: str, given: tuple[Any, ...], *, reads: bool) -> dict[str, Any]:
        pool = self.server.site.pool
        if method.startswith("session.login"):
            time.sleep(pool.faults.latency(Call.LOGIN))
            if self.server.site.coordinator:
                return _refused(["HOST_IS_SLAVE", self.server.site.coordinator])
        else:
            kind = Call.READ if reads else Call.WRITE
            time.sleep(pool.faults.latency(Call.LIST if "get_all" in method else kind))
        try:
            return {"Status": "Success", "Value": rendered(answered(pool, method, given))}
        except Failure as e:
            return _refused(e.description)
        except (KeyError, ValueError, TypeError) as e:
            return _refused(["FIELD_TYPE_ERROR", str(e)])

    # -- disks ---------------------------------------------------------------------------------

    def do_PUT(self) -> None:
        pool, asked = self.server.site.pool, self._asked("/import_raw_vdi")
        if asked is None:
            return
        failing = pool.faults.next_for("PUT", "/import_raw_vdi", changes=False)
        if failing is not None and not isinstance(failing, LostAnswer):
            self._failed(failing)
            return
        length = self.headers.get("Content-Length")
        if self.headers.get("Transfer-Encoding") or length is None:
            self._plain(404, b"<html>no length</html>")
            return
        if asked.get("format", "raw") not in {"raw", "vhd"}:
            self._plain(404, b"<html>format</html>")
            return
        try:
            vdi = transfers.found(pool, asked.get("vdi", ""))
        except Failure:
            self._plain(404, b"<html>no such VDI</html>")
            return
        task = asked.get("task_id") or pool.task("import_raw_vdi")
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        self.wfile.flush()
        body: Any = self.rfile
        if asked.get("format") == "vhd":
            parts = vhd.blocks_of(body)
        elif asked.get("chunked") == "true":
            parts = transfers.frames(body)
        else:
            parts = transfers.plain(body, int(length))
        transfers.taken_in(pool, vdi, task, parts)
        pool.save()

    def do_GET(self) -> None:
        pool, asked = self.server.site.pool, self._asked("/export_raw_vdi")
        if asked is None:
            return
        failing = pool.faults.next_for("GET", "/export_raw_vdi", changes=False)
        if failing is not None and not isinstance(failing, LostAnswer):
            self._failed(failing)
            return
        try:
            vdi = transfers.found(pool, asked.get("vdi", ""))
            base = transfers.found(pool, asked["base"]) if "base" in asked else None
        except Failure:
            self._plain(404, b"<html>no such VDI</html>")
            return
        if pool.elsewhere:
            self._elsewhere(pool.elsewhere)
            return
        task = asked.get("task_id") or pool.task("export_raw_vdi")
        whole = asked.get("format", "raw") == "raw"
        parts = transfers.raw(pool, vdi) if whole else vhd.stream(pool, vdi, base)
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        until = _HALF if failing is not None else None
        pool.senders[task] = self.cut
        try:
            transfers.sent_out(pool, vdi, task, parts, self.wfile.write, until=until)
        finally:
            pool.senders.pop(task, None)
        self.cut()

    def _elsewhere(self, host: str) -> None:
        """The storage is another host's: ask there, once."""
        self.server.site.pool.elsewhere = ""
        self.close_connection = True
        self.send_response(302)
        port = self.server.server_address[1]
        self.send_header("Location", f"https://{host}:{port}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _asked(self, path: str) -> dict[str, str] | None:
        """What a request to `path` asks for, from somebody with a session; else an answer."""
        where = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(where.query).items()}
        if where.path != path:
            self._plain(404, b"<html>not found</html>")
            return None
        try:
            self.server.site.pool.session(asked.get("session_id", ""))
        except Failure:
            self._plain(401, b"<html>unauthorised</html>")
            return None
        return asked

    # -- answers -------------------------------------------------------------------------------

    def _plain(self, status: int, body: bytes) -> None:
        self.close_connection = True
        self.tell(status, body, _XML)

    def _failed(self, failing: Fault) -> None:
        self.close_connection = True
        self.fail(failing, garbage=_XML)


def _refused(description: list[str]) -> dict[str, Any]:
    return {"Status": "Failure", "ErrorDescription": description}
