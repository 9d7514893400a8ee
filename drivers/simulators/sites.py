"""The simulated sites of an embedded system: five of five kinds in two regions, and a witness."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from drivers.simulators.faults import Faults, Profile
from drivers.simulators.guest import Guests
from drivers.simulators.journal import Journal, lost_writes
from drivers.simulators.opennebula import OpenNebulaSim
from drivers.simulators.openstack import OpenStackSim
from drivers.simulators.ovhcloud import OvhSim
from drivers.simulators.proxmox import ProxmoxSim
from drivers.simulators.witness import Witness
from drivers.simulators.xcpng import XcpngSim

OPENSTACK, PROXMOX, OVHCLOUD = "gra-openstack", "par-pve", "rbx-metal"
OPENNEBULA, XCPNG = "bru-one", "ant-xcp"
EVERY = (OPENSTACK, PROXMOX, OVHCLOUD, OPENNEBULA, XCPNG)
_FRANCE = {"region": "eu-fr", "country": "FR"}
_BELGIUM = {"region": "eu-be", "country": "BE"}
_SERVERS = 4


class Simulated(Protocol):
    """What every simulated site has."""

    @property
    def faults(self) -> Faults: ...

    @property
    def guests(self) -> Guests: ...

    def start(self) -> object: ...

    def stop(self) -> None: ...


class Sites:
    """A site of each kind, of which those in `names` run; they share a witness.

    `server_disk` is how many bytes the disk of each rented server has.
    """

    def __init__(
        self,
        folder: Path,
        ports: dict[str, int],
        profile: Profile,
        seed: int,
        names: Iterable[str] = EVERY,
        *,
        server_disk: int = 2 << 30,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.witness = Witness(folder / "witness.db")
        self.openstack = OpenStackSim(
            folder / OPENSTACK,
            name=OPENSTACK,
            port=ports.get("openstack", 0),
            profile=profile,
            witness=self.witness,
            seed=seed,
            network="shop-net",
        )
        self.proxmox = ProxmoxSim(
            folder / PROXMOX,
            name=PROXMOX,
            port=ports.get("proxmox", 0),
            ssh_port=ports.get("proxmox_ssh", 0),
            profile=profile,
            witness=self.witness,
            seed=seed + 1,
        )
        self.ovhcloud = OvhSim(
            folder / OVHCLOUD,
            name=OVHCLOUD,
            port=ports.get("ovhcloud", 0),
            profile=profile,
            witness=self.witness,
            seed=seed + 2,
            servers=_SERVERS,
            disk=server_disk,
        )
        self.opennebula = OpenNebulaSim(
            folder / OPENNEBULA,
            name=OPENNEBULA,
            port=ports.get("opennebula", 0),
            ssh_port=ports.get("opennebula_ssh", 0),
            profile=profile,
            witness=self.witness,
            seed=seed + 3,
        )
        self.xcpng = XcpngSim(
            folder / XCPNG,
            name=XCPNG,
            port=ports.get("xcpng", 0),
            nbd_port=ports.get("xcpng_nbd", 0),
            profile=profile,
            witness=self.witness,
            seed=seed + 4,
        )
        sims: dict[str, Simulated] = {
            OPENSTACK: self.openstack,
            PROXMOX: self.proxmox,
            OVHCLOUD: self.ovhcloud,
            OPENNEBULA: self.opennebula,
            XCPNG: self.xcpng,
        }
        self._sims = {name: sims[name] for name in names}

    def start(self) -> None:
        for sim in self._sims.values():
            sim.start()

    def stop(self) -> None:
        for sim in self._sims.values():
            sim.stop()
        self.witness.close()

    def faults(self, site: str) -> Faults:
        """What may be done to one of them."""
        return self._sims[site].faults

    def guests(self, site: str) -> Guests:
        return self._sims[site].guests

    def described(self) -> dict[str, Any]:
        """What an operator would type in to register the sites."""
        known = {
            OPENSTACK: lambda: openstack_described(self.openstack),
            PROXMOX: lambda: proxmox_described(self.proxmox),
            OVHCLOUD: lambda: ovhcloud_described(self.ovhcloud),
            OPENNEBULA: lambda: opennebula_described(self.opennebula),
            XCPNG: lambda: xcpng_described(self.xcpng),
        }
        return {name: known[name]() for name in self._sims}

    def observed(self) -> dict[str, Any]:
        """What only an outsider sees: journals on disks against what guests were promised."""
        # Promises first: guests go on writing while their journals are read.
        promised = {each: self.promised(each) for each in self.witness.identities()}
        return {
            "guests": [
                _compared(site, native, journal, promised.get(journal.identity.hex(), []))
                for site, sim in self._sims.items()
                for native, journal in sim.guests.journals().items()
            ],
            "twoWriters": len(self.witness.overlaps()),
            "twoRunning": len(self.witness.twins()),
        }

    def promised(self, identity: str) -> list[int]:
        """Writes that a guest was told are safe; those of isolated runs do not count.

        An attempt that was rolled back made these.
        """
        seen = [run for run in self.witness.history(identity) if run.connected]
        return [
            record.sequence
            for record in self.witness.durable(identity)
            if any(
                (run.site, run.native) == (record.site, record.native)
                and run.since <= record.at
                and (run.until is None or record.at <= run.until)
                for run in seen
            )
        ]

    def misbehave(self, wish: dict[str, Any]) -> None:
        """`{"site": name, "down": bool}` cuts a site off or brings it back.

        `"bandwidth"` (bytes per second, null for no bound) slows its bulk transfers.
        """
        faults = self.faults(wish["site"])
        if "bandwidth" in wish:
            faults.profile = replace(faults.profile, bandwidth=wish["bandwidth"])
        if wish.get("down"):
            faults.go_down()
        elif "down" in wish:
            faults.come_back()


def openstack_described(sim: OpenStackSim) -> dict[str, Any]:
    """How a simulated OpenStack is reached."""
    known = sim.credentials
    return {
        "provider": "openstack",
        "endpoint": sim.url,
        **_FRANCE,
        "options": {},
        "pins": {},
        "credentials": {
            "application_credential_id": known.application_credential_id,
            "application_credential_secret": known.application_credential_secret,
        },
    }


def proxmox_described(sim: ProxmoxSim) -> dict[str, Any]:
    """How a simulated Proxmox VE is reached."""
    node, (host, ssh_port) = sim.credentials, sim.ssh_address
    return {
        "provider": "proxmox",
        "endpoint": sim.url,
        **_FRANCE,
        "options": {"ssh_host": host, "ssh_port": str(ssh_port)},
        "pins": {"tls": node.fingerprint, "ssh": node.ssh_host_key},
        "credentials": {
            "token_id": node.token_id,
            "token_secret": node.token_secret,
            "ssh_key": node.ssh_private_key,
        },
    }


def opennebula_described(sim: OpenNebulaSim) -> dict[str, Any]:
    """How a simulated OpenNebula is reached."""
    known, (host, ssh_port) = sim.credentials, sim.ssh_address
    return {
        "provider": "opennebula",
        "endpoint": sim.url,
        **_BELGIUM,
        "options": {"ssh_host": host, "ssh_port": str(ssh_port)},
        "pins": {"ssh": known.ssh_host_key},
        "credentials": {
            "username": known.user,
            "token": known.token,
            "ssh_key": known.ssh_private_key,
        },
    }


def xcpng_described(sim: XcpngSim) -> dict[str, Any]:
    """How a simulated XCP-ng pool is reached."""
    known = sim.credentials
    return {
        "provider": "xcpng",
        "endpoint": sim.url,
        **_BELGIUM,
        "options": {},
        "pins": {"tls": known.fingerprint},
        "credentials": {"username": known.username, "password": known.password},
    }


def ovhcloud_described(sim: OvhSim) -> dict[str, Any]:
    """How a simulated pool of OVHcloud servers is reached."""
    known = sim.credentials
    return {
        "provider": "ovhcloud",
        "endpoint": sim.url,
        **_FRANCE,
        "options": {"ssh_at": sim.ssh_at},
        "pins": {},
        "credentials": {
            "application_key": known.application_key,
            "application_secret": known.application_secret,
            "consumer_key": known.consumer_key,
            "ssh_key": known.ssh_private_key,
        },
    }


def _compared(site: str, native: str, journal: Journal, promised: list[int]) -> dict[str, Any]:
    return {
        "site": site,
        "native": native,
        "identity": journal.identity.hex(),
        "boots": journal.boots,
        "written": journal.last,
        "promised": len(promised),
        "lost": list(lost_writes(journal, promised)),
    }
