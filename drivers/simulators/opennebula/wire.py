"""The XML-RPC side of a simulated oned: POST /RPC2, arrays and faults out, failures between."""

import re
import time
import xmlrpc.client as xmlrpc
from collections.abc import Callable
from typing import Any
from xml.parsers.expat import ExpatError

from drivers.simulators.faults import Call, LostAnswer
from drivers.simulators.http import Handler, HttpServer
from drivers.simulators.opennebula import backups, images, networks, site_info, vms
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.oned import Oned, Refusal, User

Act = Callable[..., Any]
# Each method with the types of its parameters after the session; those after None may be left out.
METHODS: dict[str, tuple[Act, tuple[type | None, ...]]] = {
    "one.system.version": (site_info.version, ()),
    "one.user.info": (site_info.user, (int, None, bool)),
    "one.user.login": (site_info.login, (str, str, int, None, int)),
    "one.datastorepool.info": (site_info.datastores, ()),
    "one.imagepool.info": (images.pool, (int, int, int)),
    "one.image.info": (images.info, (int, None, bool)),
    "one.image.allocate": (images.allocate, (str, int, None, bool)),
    "one.image.clone": (images.clone, (int, str, None, int)),
    "one.image.update": (images.update, (int, str, int)),
    "one.image.persistent": (images.persistent, (int, bool)),
    "one.image.delete": (images.delete, (int, None, bool)),
    "one.vnpool.info": (networks.pool, (int, int, int)),
    "one.vn.info": (networks.info, (int, None, bool)),
    "one.vmpool.info": (vms.pool, (int, int, int, int)),
    "one.vmpool.infoextended": (vms.extended, (int, int, int, int)),
    "one.vm.info": (vms.info, (int, None, bool)),
    "one.vm.allocate": (vms.allocate, (str, None, bool)),
    "one.vm.backup": (backups.backup, (int, int, None, bool)),
    "one.vm.updateconf": (backups.update_config, (int, str, int)),
    "one.vm.action": (vms.action, (str, int)),
    "one.vm.update": (vms.update, (int, str, int)),
    "one.vm.lock": (vms.lock, (int, int, None, bool)),
    "one.vm.unlock": (vms.unlock, (int,)),
    "one.vm.attachnic": (vms.attach_nic, (int, str)),
    "one.vm.detachnic": (vms.detach_nic, (int, int)),
}
_READS = re.compile(r".*\.(info|infoextended|version)")
_XML = {"Content-Type": "text/xml; charset=utf-8"}


def api_server(site: Oned, *, port: int) -> HttpServer[Oned]:
    return HttpServer(_Handler, site, name=f"rpc-{site.name}", port=port)


class _Handler(Handler[Oned]):
    server_version = "Xmlrpc-c_Abyss/1.40.0"
    wbufsize = -1

    def do_GET(self) -> None:
        known = self.path == "/RPC2"
        self.tell(405 if known else 404, b"Method Not Allowed" if known else b"Not Found", _XML)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path != "/RPC2":
            self.tell(404, b"Not Found", _XML)
            return
        method, parameters, fault = _read(body)
        failing = self.server.site.faults.next_for(
            "POST", f"/RPC2 {method}", changes=not _READS.fullmatch(method)
        )
        if failing is not None and not isinstance(failing, LostAnswer):
            self.fail(failing, garbage=_XML)
            return
        answer = fault or _answered(self.server.site, method, parameters)
        if isinstance(failing, LostAnswer):
            self.cut()
            return
        text = xmlrpc.dumps(
            answer if isinstance(answer, xmlrpc.Fault) else (answer,),
            methodresponse=True,
            encoding="utf-8",
        )
        self.tell(200, text.encode(), _XML)


def _read(body: bytes) -> tuple[str, tuple[Any, ...], xmlrpc.Fault | None]:
    try:
        parameters, method = xmlrpc.loads(body, use_builtin_types=True)
    except (ExpatError, ValueError, xmlrpc.Error, TypeError, KeyError) as e:
        return "", (), xmlrpc.Fault(-503, f"Call XML not a proper XML-RPC call. {e}")
    if any(ord(c) > 0xFFFF for text in parameters if isinstance(text, str) for c in text):
        what = "Call XML not a proper XML-RPC call. Character is not in the BMP"
        return str(method), (), xmlrpc.Fault(-503, what)
    return str(method), parameters, None


def _answered(site: Oned, method: str, parameters: tuple[Any, ...]) -> Any:
    """A 3-array, a 5-array or a fault."""
    if method not in METHODS:
        return xmlrpc.Fault(-506, f"Method '{method}' not defined")
    act, types = METHODS[method]
    if problem := _mistyped(parameters, (str, *types)):
        return xmlrpc.Fault(-501, problem)
    kind = Call.READ if _READS.fullmatch(method) else Call.WRITE
    time.sleep(site.faults.latency(Call.LIST if "pool." in method else kind))
    user = site.user(parameters[0])
    if user is None:
        time.sleep(site.profile.login_failure_seconds)
        message = f"[{method}] User couldn't be authenticated, aborting call."
        return [False, message, one.AUTHENTICATION, -1, -1]
    try:
        return _done(site, user, act, parameters[1:], changes=kind is Call.WRITE)
    except Refusal as refusal:
        return [False, refusal.message, refusal.code, refusal.resource, -1]


def _done(
    site: Oned, user: User, act: Act, parameters: tuple[Any, ...], *, changes: bool
) -> list[Any]:
    if act is images.allocate:  # it blocks on somebody else's address
        return [True, act(site, user, *parameters), 0]
    with site.changing() if changes else site.lock:
        return [True, act(site, user, *parameters), 0]


def _mistyped(parameters: tuple[Any, ...], types: tuple[type | None, ...]) -> str:
    """Why the parameters do not fit, in xmlrpc-c's words; empty when they do."""
    needed = types.index(None) if None in types else len(types)
    known = [each for each in types if each is not None]
    if not needed <= len(parameters) <= len(known):
        return f"Wrong number of parameters: {len(parameters)}"
    for given, kind in zip(parameters, known, strict=False):
        if type(given) is not kind:
            return f"Parameter has wrong type: {type(given).__name__}, not {kind.__name__}"
    return ""
