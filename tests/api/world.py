"""A real API over a real store, and the hands of the workflows that tests do without."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import uvicorn
from argon2 import PasswordHasher

from api.http.app import create_app
from controlplane.domain.admission import Bounds
from controlplane.domain.artefact import Artefact, ArtefactKind, ArtefactState
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId, SiteName
from controlplane.domain.kinds import facts
from controlplane.domain.operation import Operation, OperationState, Problem, StepState
from controlplane.domain.placement import Placement
from controlplane.domain.resource import Kind, State
from controlplane.identity.passwords import Passwords
from controlplane.keys.keyring import Keyring
from controlplane.keys.memory import MemoryKeys
from controlplane.keys.root import LocalAgent, RootKey
from controlplane.services import Services
from controlplane.services.admission import admit
from controlplane.services.ports import ServiceSettings
from controlplane.services.secrets import AuditSigner, SiteSecrets
from controlplane.store.engine import Store

PASSWORD = "correct horse battery"
COMPUTE = "/providers/seca.compute/v1"
STORAGE = "/providers/seca.storage/v1"
WORKSPACES = "/providers/seca.workspace/v1"
REGIONS = "/providers/seca.region/v1/regions"
AUTHORIZATION = "/providers/seca.authorization/v1"
FEDERATION = "/providers/fedctl.federation/v1"
MOBILITY = "/providers/fedctl.mobility/v1"
PROTECTION = "/providers/fedctl.protection/v1"
IMAGES = "/providers/fedctl.images/v1"
IDENTITY = "/providers/fedctl.identity/v1"
_NUMBERS = count(1)


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


def cheap_passwords() -> Passwords:
    """Argon2 at its lowest cost: tests log in often."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@dataclass
class World:
    store: Store
    services: Services
    secrets: SiteSecrets
    url: str
    token: str
    http: httpx.Client
    tenant: str = "acme"
    names: Iterator[int] = field(default_factory=lambda: _NUMBERS)

    def fresh(self, stem: str) -> str:
        return f"{stem}-{next(self.names)}"

    def client(self, token: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {token}"})

    def user(self, tenant: str | None = None) -> tuple[str, httpx.Client]:
        """A new user without any role, and a client that is logged in as them."""
        home = tenant or self.tenant
        name = self.fresh("user")
        self.http.put(f"{IDENTITY}/tenants/{home}")
        made = self.http.put(f"{IDENTITY}/tenants/{home}/users/{name}", json={"password": PASSWORD})
        assert made.status_code == 201, made.text
        answer = httpx.post(
            f"{self.url}{IDENTITY}/login", json={"user": name, "password": PASSWORD}
        )
        return name, self.client(answer.json()["token"])

    # paths

    def site_path(self, name: str) -> str:
        return f"{FEDERATION}/sites/{name}"

    def in_tenant(self, base: str, path: str) -> str:
        return f"{base}/tenants/{self.tenant}/{path}"

    def in_workspace(self, base: str, workspace: str, path: str) -> str:
        return f"{base}/tenants/{self.tenant}/workspaces/{workspace}/{path}"

    # wishes

    def put(self, path: str, spec: dict, **more) -> httpx.Response:
        return self.http.put(path, json={"spec": spec, **more})

    def site(self, provider: str = "openstack") -> str:
        name = self.fresh("site")
        spec = {
            "provider": provider,
            "endpoint": "https://cloud.example:5000/v3",
            "region": "eu-fr",
            "country": "FR",
        }
        assert self.put(self.site_path(name), spec).status_code == 201
        given = self.http.put(
            f"{self.site_path(name)}/credentials",
            json={"secrets": {"username": "u", "password": "s3cret"}},
        )
        assert given.status_code == 204, given.text
        return name

    def workspace(self) -> str:
        name = self.fresh("shop")
        assert self.put(self.in_tenant(WORKSPACES, f"workspaces/{name}"), {}).status_code == 201
        return name

    def volume(self, workspace: str, **spec) -> str:
        name = self.fresh("disk")
        path = self.in_workspace(STORAGE, workspace, f"block-storages/{name}")
        wish = {"skuRef": {"resource": "skus/seca.rd500"}, "sizeGB": 4, **spec}
        made = self.put(path, wish)
        assert made.status_code == 201, made.text
        return name

    def instance_spec(self, site: str, volume: str, **spec) -> dict:
        return {
            "skuRef": {"resource": "skus/seca.ss"},
            "zone": site,
            "bootVolume": {"deviceRef": {"resource": f"block-storages/{volume}"}},
            **spec,
        }

    def instance(self, workspace: str, site: str, **more) -> str:
        name = self.fresh("web")
        path = self.in_workspace(COMPUTE, workspace, f"instances/{name}")
        made = self.put(path, self.instance_spec(site, self.volume(workspace)), **more)
        assert made.status_code == 201, made.text
        return name

    # outcomes that workflows would write

    def operation(self, answer: httpx.Response) -> Operation:
        """The operation that a request started."""
        parts = answer.headers["Fedctl-Operation"].split("/")
        places = dict(zip(parts[2:-2:2], parts[3:-2:2], strict=True))
        with self.store.read() as tx:
            return tx.operations.by_name(places.get("tenants"), places.get("workspaces"), parts[-1])

    def end(
        self,
        operation: Operation,
        state: OperationState = OperationState.SUCCEEDED,
        problem: Problem | None = None,
        **changes,
    ) -> None:
        now = datetime.now(UTC)
        with self.store.begin() as tx:
            tx.operations.update(operation.id, state=OperationState.RUNNING, started_at=now)
            tx.operations.begin_step(operation.id, "only step", now)
            tx.operations.end_step(operation.id, "only step", StepState.OK, now, 0.5, 0.25)
            tx.operations.update(
                operation.id, state=state, ended_at=now, problem=problem, **changes
            )

    def provisioned(self, answer: httpx.Response, site: str, *, power: str = "off") -> UUID:
        """The instance of a PUT's answer as a finished provisioning leaves it."""
        operation = self.operation(answer)
        now = datetime.now(UTC)
        instance = InstanceId(operation.subject)
        copy = ArtefactId(uuid4())
        with self.store.begin() as tx:
            tx.artefacts.intend(
                Artefact(
                    id=copy,
                    kind=ArtefactKind.INSTANCE,
                    site=SiteName(site),
                    instance=instance,
                    operation=operation.id,
                    epoch=1,
                    state=ArtefactState.INTENDED,
                    created_at=now,
                )
            )
            tx.artefacts.set_state(copy, ArtefactState.ALLOCATED, ref="vm-1")
            tx.artefacts.set_state(copy, ArtefactState.ATTACHED)
            tx.placements.create(
                Placement(instance=instance, site=SiteName(site), copy=copy, epoch=1)
            )
            tx.resources.set_state(operation.subject, State.CREATING, now=now)
            tx.resources.set_state(operation.subject, State.ACTIVE, now=now)
            tx.resources.patch_status(operation.subject, {"powerState": power}, now=now)
        self.end(operation)
        return operation.subject

    def running_instance(self, workspace: str, site: str, *, power: str = "off") -> str:
        name = self.fresh("web")
        path = self.in_workspace(COMPUTE, workspace, f"instances/{name}")
        made = self.put(path, self.instance_spec(site, self.volume(workspace)))
        assert made.status_code == 201, made.text
        self.provisioned(made, site, power=power)
        return name

    def plan_made(self, answer: httpx.Response, workspace: str, move: str, digest: str) -> None:
        """A plan-move that ended well, as the move's status shows it."""
        key = facts(Kind.MOVE).key(move, self.tenant, workspace)
        now = datetime.now(UTC)
        with self.store.begin() as tx:
            resource = tx.resources.get(key)
            tx.resources.patch_status(
                resource.id, {"phase": "planned", "planDigest": digest, "plan": {}}, now=now
            )
        self.end(self.operation(answer))

    def admit(self) -> None:
        """What a starter does in each round: those begin whose turn it is."""
        with self.store.begin() as tx:
            admit(tx, self.services.settings.bounds, datetime.now(UTC))

    def outbox(self) -> list[tuple[OperationId, str]]:
        with self.store.read() as tx:
            return [(item.operation, item.what) for item in tx.outbox.pending(100_000)]


@contextmanager
def served(app: object) -> Iterator[str]:
    """The application behind a real socket of its own; yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    # asyncio sets this by itself only where it made the socket; without it each answer is 40 ms late
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


@contextmanager
def world(folder: Path, tenant: str = "acme", bounds: Bounds | None = None) -> Iterator[World]:
    store = Store(f"sqlite:///{folder}/fedctl.db")
    store.migrate()
    agent = LocalAgent(RootKey(root=UUID(int=7), material=bytes(range(32))))
    secrets = SiteSecrets(Keyring(agent=agent, rows=MemoryKeys()))
    services = Services(
        store=store,
        secrets=secrets,
        signer=AuditSigner(agent, origin="fedctl.test/audit"),
        clock=SystemClock(),
        settings=ServiceSettings(
            public_url="http://127.0.0.1", uploads=folder / "uploads", bounds=bounds or Bounds()
        ),
        passwords=cheap_passwords(),
    )
    token = services.identity.bootstrap(tenant, "ada", PASSWORD)
    headers = {"Authorization": f"Bearer {token}"}
    with (
        served(create_app(services)) as url,
        httpx.Client(base_url=url, headers=headers) as http,
    ):
        yield World(
            store=store,
            services=services,
            secrets=secrets,
            url=url,
            token=token,
            http=http,
            tenant=tenant,
        )
    store.close()
