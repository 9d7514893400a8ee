"""One simulated OpenStack: keystone, nova, cinder, glance and neutron on one loopback port."""

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from drivers.simulators.faults import (
    Call as CallClass,
)
from drivers.simulators.faults import (
    Fault,
    Faults,
    Garbage,
    Hang,
    LostAnswer,
    Profile,
    Reset,
    Status,
)
from drivers.simulators.guest import Guests
from drivers.simulators.openstack.cinder import Cinder
from drivers.simulators.openstack.cloud import Cloud, Knobs
from drivers.simulators.openstack.glance import Glance
from drivers.simulators.openstack.image_store import ImageStore
from drivers.simulators.openstack.keystone import Keystone
from drivers.simulators.openstack.neutron import Neutron
from drivers.simulators.openstack.nova import Nova
from drivers.simulators.openstack.servers import Servers
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Silence, WireServer
from drivers.simulators.openstack.world import World
from drivers.simulators.witness import Witness

NOVA_FAULTS = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}
PUBLIC = {
    "/compute",
    "/compute/v2.1",
    "/volume",
    "/volume/v3",
    "/image",
    "/image/versions",
    "/network",
}


class Credentials(NamedTuple):
    """How to log in: an application credential, and the member's and administrator's passwords."""

    application_credential_id: str
    application_credential_secret: str
    username: str
    password: str
    admin_username: str
    admin_password: str
    project_id: str
    project_name: str
    domain: str = "default"


class OpenStackSim:
    """A cloud in a folder; started again on the same folder it goes on where it was.

    `knobs` (quota, pull rules, token lifetime, page size, ...) may be turned while it runs;
    `faults` makes single calls fail, bytes flip, the disk full, or the whole site go down;
    `fail_build`, `fail_import` and `fail_volume` let asynchronous work fail later.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        profile: Profile,
        witness: Witness | None = None,
        port: int = 0,
        seed: int = 0,
        knobs: Knobs | None = None,
        network: str = "private",
        cidr: str = "10.0.4.0/22",
    ) -> None:
        self.name = name
        self.knobs = knobs or Knobs()
        self.faults = Faults(profile, seed=seed)
        self.world = World(folder, seed)
        self._port = port
        self._wire: WireServer | None = None
        self._guard = threading.Lock()
        self._guests = Guests(name, profile=profile, witness=witness)
        self._cloud = Cloud(
            name=name,
            world=self.world,
            profile=profile,
            faults=self.faults,
            guests=self._guests,
            knobs=self.knobs,
        )
        self.keystone = Keystone(self._cloud)
        self.images = ImageStore(self._cloud)
        self.glance = Glance(self._cloud, self.images)
        self.cinder = Cinder(self._cloud, self.images)
        self.neutron = Neutron(self._cloud)
        self.nova = Nova(self._cloud)
        self.servers = Servers(self._cloud, self.nova, self.cinder, self.images, self.neutron)
        self.cinder.volumes.freeze = self.servers.lives.frozen
        self.neutron.seed(self.keystone.account["project"]["id"], network, cidr)
        self.faults.watch(lambda down: self._down() if down else self._up())

    # life

    def start(self) -> None:
        self.world.start()
        self.servers.lives.resume()
        if not self.faults.is_down:
            self._up()

    def stop(self) -> None:
        self._down()
        self.world.halt()
        self._guests.close()
        self.world.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _up(self) -> None:
        with self._guard:
            if self._wire is None:
                self._wire = WireServer(self._port, self._answer)
                self._port = self._wire.server_address[1]
                self._wire.start()

    def _down(self) -> None:
        with self._guard:
            if self._wire is not None:
                self._wire.stop()
                self._wire = None

    # what a user of the cloud knows

    @property
    def url(self) -> str:
        """Keystone's address."""
        return f"http://127.0.0.1:{self._port}/identity/v3"

    @property
    def credentials(self) -> Credentials:
        account = self.keystone.account
        users, own = account["users"], account["credential"]
        return Credentials(
            application_credential_id=own["id"],
            application_credential_secret=own["secret"],
            username="member",
            password=users["member"]["password"],
            admin_username="admin",
            admin_password=users["admin"]["password"],
            project_id=account["project"]["id"],
            project_name=account["project"]["name"],
        )

    # what a test does to it

    @property
    def guests(self) -> Guests:
        return self._guests

    def volume_path(self, ident: str) -> Path:
        """The raw file behind a volume."""
        return self.cinder.volumes.path(ident)

    def expire_tokens(self) -> None:
        """Let every token be over at once."""
        self.keystone.expire_all()

    def fail_build(self, why: str = "No valid host was found.") -> None:
        """Let the next server end in ERROR with this fault."""
        self._cloud.build_faults.append(why)

    def fail_import(self, why: str = "The import failed") -> None:
        """Let the next image import fail."""
        self._cloud.import_faults.append(why)

    def fail_volume(self, why: str = "The backend refused") -> None:
        """Let the next asynchronous work on a volume, snapshot or upload end in error."""
        self._cloud.volume_faults.append(why)

    def cut_downloads(self, times: int = 1) -> None:
        """Break the next downloads of image bytes somewhere in their middle."""
        self._cloud.step_scale["cut downloads"] = times

    def slow_step(self, action: str, factor: float) -> None:
        """Let an asynchronous step, such as `server.delete`, take so many times as long."""
        self._cloud.step_scale[action] = factor

    # answering

    def _answer(self, call: Call) -> Reply | Silence:
        service = call.path.split("/")[1] if "/" in call.path else ""
        changes = call.method not in {"GET", "HEAD"} and service != "identity"
        fault = self.faults.next_for(call.method, call.path, changes=changes)
        self._pause(call, service)
        if fault is not None and not isinstance(fault, LostAnswer):
            return self._misbehave(fault)
        request_id = "req-" + self.world.new_id()
        try:
            reply = self._served(call, service)
        except Refusal as e:
            reply = self._refused(e, service)
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            reply = self._refused(Refusal(400, f"Malformed request: {e!r}"), service)
        if fault is not None:
            return Silence(cut=True)
        headers = {**call.spoken, **reply.headers, "x-openstack-request-id": request_id}
        return Reply(
            status=reply.status,
            body=reply.body,
            headers=headers,
            file=reply.file,
            start=reply.start,
            length=reply.length,
            through=reply.through,
            cut_after=reply.cut_after,
        )

    def _pause(self, call: Call, service: str) -> None:
        kind = CallClass.READ
        if service == "identity" and call.method == "POST":
            kind = CallClass.LOGIN
        elif call.path.endswith("/file"):
            kind = CallClass.BULK
        elif call.method not in {"GET", "HEAD"}:
            kind = CallClass.WRITE
        elif call.path.endswith(("s", "/detail")):
            kind = CallClass.LIST
        time.sleep(self.faults.latency(kind))

    @staticmethod
    def _misbehave(fault: Fault) -> Reply | Silence:
        if isinstance(fault, Status):
            return Reply(status=fault.code, body=fault.body, headers=fault.headers)
        if isinstance(fault, Garbage):
            return Reply(status=200, body=fault.body)
        if isinstance(fault, Hang):
            return Silence(cut=False)
        if isinstance(fault, Reset):
            return Silence(cut=True, reset=True)
        return Silence(cut=True)

    def _served(self, call: Call, service: str) -> Reply:
        if service == "identity":
            endpoint, names = self.keystone.routes.find(call.method, call.path)
            return endpoint(call, **names)
        if call.path.rstrip("/") not in PUBLIC:
            call.token = self.keystone.authenticated(call)
            if not call.token["project_id"]:
                raise Refusal(401, "The request you have made requires authentication.")
        if service == "compute":
            self.nova.negotiate(call)
            routes = self.servers.routes if "/servers" in call.path else self.nova.routes
        elif service == "volume":
            self.cinder.negotiate(call)
            routes = self.cinder.routes
        elif service == "image":
            routes = self.glance.routes
        elif service == "network":
            routes = self.neutron.routes
        else:
            raise Refusal(404, "The resource could not be found.")
        endpoint, names = routes.find(call.method, call.path)
        return endpoint(call, **names)

    @staticmethod
    def _refused(refusal: Refusal, service: str) -> Reply:
        """The refusal in the words of the service."""
        status, message = refusal.status, refusal.message
        body: Any
        headers = {"Content-Type": "application/json", **refusal.headers}
        if status == 401 or service == "identity":
            title = {401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}.get(
                status, "Bad Request"
            )
            body = {"error": {"code": status, "message": message, "title": title}}
        elif service == "network":
            error = {"type": refusal.kind or "HTTPError", "message": message, "detail": ""}
            body = {"NeutronError": error}
        elif service == "image":
            headers["Content-Type"] = "text/html; charset=UTF-8"
            body = (
                f"<html>\n <head>\n  <title>{status} Error</title>\n </head>\n <body>\n"
                f"  <h1>{status} Error</h1>\n  {message}<br /><br />\n\n\n\n </body>\n</html>"
            ).encode()
        else:
            fault: dict[str, Any] = {"code": status, "message": message}
            if "Retry-After" in headers and status == 413:
                fault["retryAfter"] = headers["Retry-After"]
            body = {NOVA_FAULTS.get(status, "computeFault"): fault}
        return Reply(status=status, body=body, headers=headers)
