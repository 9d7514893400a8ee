"""One workspace of a system, and the requests that a customer makes in it."""

import hashlib
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind, ResourceKey
from drivers.simulators.journal import Journal, lost_writes
from drivers.simulators.sites import OPENNEBULA, OVHCLOUD, PROXMOX, XCPNG
from drivers.simulators.witness import Run
from tests.e2e.images import MIB, raw_image
from tests.e2e.system import OPENSTACK, PATIENCE, TENANT, System, until

NETWORK = {
    OPENSTACK: "shop-net",
    PROXMOX: "vmbr0",
    OVHCLOUD: "pn-100",
    OPENNEBULA: "shop-net",
    XCPNG: "shop-net",
}
_PART = 4 * MIB
_SEEDS = count(1)


@dataclass
class Shop:
    system: System
    name: str
    folder: Path
    numbers: Any = field(default_factory=lambda: count(1))
    last_move: str = ""
    tenant: str = TENANT

    @property
    def http(self) -> httpx.Client:
        return self.system.http

    def fresh(self, stem: str) -> str:
        return f"{stem}-{self.name}-{next(self.numbers)}"

    # where

    def path(self, area: str, collection: str, name: str) -> str:
        return (
            f"/providers/{area}/v1/tenants/{self.tenant}/workspaces/{self.name}/{collection}/{name}"
        )

    def instance_path(self, name: str) -> str:
        return self.path("seca.compute", "instances", name)

    def move_path(self, name: str) -> str:
        return self.path("fedctl.mobility", "moves", name)

    def image_path(self, name: str) -> str:
        return f"/providers/seca.storage/v1/tenants/{self.tenant}/images/{name}"

    def upload_path(self, name: str) -> str:
        return f"/providers/fedctl.images/v1/tenants/{self.tenant}/image-uploads/{name}"

    # images

    def file(self, **shape: int) -> Path:
        """A raw image of its own identity."""
        seed = next(_SEEDS)
        return raw_image(self.folder / f"{self.name}-{seed}.raw", seed=seed, **shape)

    def begin_upload(self, file: Path, name: str) -> httpx.Response:
        spec = {
            "image": name,
            "sizeBytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        return self.http.put(self.upload_path(name), json={"spec": spec})

    def send(self, name: str, data: bytes, first: int, total: int) -> httpx.Response:
        part = f"bytes {first}-{first + len(data) - 1}/{total}"
        return self.http.put(
            f"{self.upload_path(name)}/data", content=data, headers={"Content-Range": part}
        )

    def upload(self, file: Path, name: str | None = None) -> httpx.Response:
        """The answer to the last part, or to what was refused before it."""
        name = name or self.fresh("image")
        answer = self.begin_upload(file, name)
        total, at = file.stat().st_size, 0
        with file.open("rb") as opened:
            while answer.is_success and (data := opened.read(_PART)):
                answer = self.send(name, data, at, total)
                at += len(data)
        return answer

    def image(self, file: Path | None = None) -> str:
        """The name of an image that is there to be used."""
        name = self.fresh("image")
        self.system.done(self.upload(file or self.file(), name))
        return name

    # instances

    def ask_instance(
        self, name: str, image: str, site: str, *, size: int = 1, sku: str = "seca.ds",
        **extensions: str,
    ) -> httpx.Response:  # fmt: skip
        disk = f"{name}-boot"
        made = self.http.put(
            self.path("seca.storage", "block-storages", disk),
            json={
                "spec": {
                    "skuRef": {"resource": "skus/seca.rd500"},
                    "sizeGB": size,
                    "sourceImageRef": {"resource": f"images/{image}"},
                }
            },
        )
        if not made.is_success:
            return made
        spec = {
            "skuRef": {"resource": f"skus/{sku}"},
            "zone": site,
            "bootVolume": {"deviceRef": {"resource": f"block-storages/{disk}"}},
        }
        wished = {"network": NETWORK.get(site, ""), **extensions}
        return self.http.put(
            self.instance_path(name),
            json={
                "spec": spec,
                "extensions": {f"fedctl:{key}": value for key, value in wished.items() if value},
            },
        )

    def instance(self, site: str = OPENSTACK, *, image: str | None = None, **more: str) -> str:
        """A running instance of its own image at `site`."""
        name = self.fresh("web")
        image = image or self.image()
        self.system.done(self.ask_instance(name, image, site, **more))
        self.system.done(self.act(name, "start"))
        until(lambda: self.journal(name).boots, f"{name} boots")
        return name

    def act(self, name: str, action: str, **params: str) -> httpx.Response:
        return self.http.post(f"{self.instance_path(name)}/{action}", params=params)

    def shown(self, name: str) -> dict[str, Any]:
        return self.system.look(self.instance_path(name))

    def home(self, name: str) -> str:
        return str(self.shown(name)["spec"]["zone"])

    def power(self, name: str) -> str:
        return str(self.shown(name)["status"]["powerState"])

    def placement(self, name: str) -> dict[str, Any]:
        path = self.path("fedctl.mobility", "placements", name)
        found: dict[str, Any] = self.system.look(path)["status"]
        return found

    def native(self, name: str) -> tuple[str, str]:
        """Site and the provider's own name of the home copy."""
        store, key = self.system.parts.store, self.shown(name)["metadata"]["name"]
        with store.read() as tx:
            found = tx.resources.get(_key(key, self.name))
            place = tx.placements.get(found.id)
            assert place.copy is not None
            return str(place.site), str(tx.artefacts.get(place.copy).ref)

    def journal(self, name: str) -> Journal:
        """What the running home copy wrote to its disk."""
        site, native = self.native(name)
        return self.system.sites.guests(site).journals()[native]

    def writing(self, name: str) -> Journal:
        """The journal once the guest writes it."""
        until(lambda: self.journal(name).last > 3, f"the guest of {name} writes")
        return self.journal(name)

    def written_on(self, name: str, before: Journal) -> Journal:
        """The journal once the guest wrote on where it is at home, with no promised write lost."""
        until(lambda: self.journal(name).last > before.last, f"the guest of {name} writes on")
        # Promises first: the guest goes on writing while its journal is read.
        promised = self.system.sites.promised(before.identity.hex())
        after = self.journal(name)
        assert (after.identity, after.damaged) == (before.identity, ())
        assert after.boots == self.runs(name)[-1].boots
        assert lost_writes(after, promised) == ()
        assert self.system.troubles() == []
        return after

    def runs(self, name: str) -> tuple[Run, ...]:
        """Every power-on of the home copy's disk, at any site, oldest first."""
        return self.system.sites.witness.history(self.journal(name).identity.hex())

    # moves

    def wish(self, name: str, to: str, **more: object) -> dict[str, object]:
        others = sorted(set(NETWORK.values())) if to in NETWORK else []
        networks: dict[str, object] = {
            "networkMap": [{"from": other, "to": NETWORK[to]} for other in others]
        }
        return {
            "instanceRef": {"resource": f"instances/{name}"},
            "target": {"site": to},
            "method": "cold",
            **networks,
            **more,
        }

    def plan(self, name: str, to: str, **more: object) -> tuple[str, dict[str, Any]]:
        """Name and status of a planned move."""
        called = self.last_move = self.fresh("move")
        spec = {**self.wish(name, to, **more), "planOnly": True}
        self.system.ended(self.http.put(self.move_path(called), json={"spec": spec}))
        return called, self.system.look(self.move_path(called))["status"]

    def begin_move(self, name: str, to: str, **more: object) -> tuple[str, str]:
        """Name of the move, and the path of its operation."""
        called, planned = self.plan(name, to, **more)
        assert "planDigest" in planned, planned
        agreed = {**self.wish(name, to, **more), "planDigest": planned["planDigest"]}
        answer = self.http.put(self.move_path(called), json={"spec": agreed})
        return called, self.system.operation(answer)

    def unplanned(self, name: str, to: str, **more: object) -> str:
        """The path of the operation of a move whose plan nobody saw before."""
        called = self.last_move = self.fresh("move")
        spec = self.wish(name, to, **more)
        return self.system.operation(self.http.put(self.move_path(called), json={"spec": spec}))

    def move(self, name: str, to: str, **more: object) -> dict[str, Any]:
        """The operation's status at its end."""
        _, path = self.begin_move(name, to, **more)
        return self.system.ended(path)

    def moved(
        self, name: str, to: str, *, seconds: float = PATIENCE, **more: object
    ) -> dict[str, Any]:
        """A move that went well: digests equal, at home there."""
        _, path = self.begin_move(name, to, **more)
        status = self.system.done(path, seconds)
        proofs = status["result"]["proof"]
        assert proofs
        assert all(p["equal"] and p["sourceDigest"] == p["targetDigest"] for p in proofs)
        assert self.home(name) == to
        return status

    def step(self, path: str, name: str, *, state: str = "running") -> None:
        """Wait until an operation is in that step."""

        def there() -> bool:
            status = self.system.look(path)["status"]
            steps = {s["name"]: s["state"] for s in status["steps"]}
            assert not status.get("outcome") or name in steps, (
                f"it ended before {name!r}: {status.get('problem')} {sorted(steps)}"
            )
            return name in steps and (state == "any" or steps[name] == state)

        until(there, f"{path} reaches {name!r}", every=0.01)

    # the end

    def delete(self, name: str) -> None:
        self.system.done(self.http.delete(self.instance_path(name)))

    def clear(self) -> None:
        """Delete every instance that still is, with whatever is retained of it."""
        listed = self.http.get(self.instance_path("").rstrip("/")).json()["items"]
        for each in listed:
            self.delete(each["metadata"]["name"])


def _key(name: str, workspace: str) -> ResourceKey:
    return facts(Kind.INSTANCE).key(name, TENANT, workspace)


def start_shop(system: System, name: str, folder: Path) -> Shop:
    path = f"/providers/seca.workspace/v1/tenants/{TENANT}/workspaces/{name}"
    system.http.put(path, json={"spec": {}}).raise_for_status()
    return Shop(system=system, name=name, folder=folder)
