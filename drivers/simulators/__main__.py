"""All simulated sites of an embedded system in one process: `python -m drivers.simulators FOLDER`.

Writes FOLDER/sites.json (0600): how each site is reached, with its credentials. The control port
(loopback only) answers a GET with what an outsider saw of the guests, and a POST lets a
demonstration or a test misbehave on purpose.
"""

import argparse
import json
import signal
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from drivers.simulators.faults import PROFILES, Profile
from drivers.simulators.journal import Journal, lost_writes
from drivers.simulators.openstack import OpenStackSim
from drivers.simulators.proxmox import ProxmoxSim
from drivers.simulators.witness import Witness

OPENSTACK, PROXMOX = "gra-openstack", "par-pve"


class Sites:
    """One OpenStack and one Proxmox VE that share a witness."""

    def __init__(self, folder: Path, ports: dict[str, int], profile: Profile, seed: int) -> None:
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

    def start(self) -> None:
        self.openstack.start()
        self.proxmox.start()

    def stop(self) -> None:
        self.openstack.stop()
        self.proxmox.stop()
        self.witness.close()

    def described(self) -> dict[str, Any]:
        """What an operator would type in to register the sites."""
        cloud = self.openstack.credentials
        return {
            OPENSTACK: {
                "provider": "openstack",
                "endpoint": self.openstack.url,
                "country": "FR",
                "options": {},
                "pins": {},
                "credentials": {
                    "application_credential_id": cloud.application_credential_id,
                    "application_credential_secret": cloud.application_credential_secret,
                },
            },
            PROXMOX: proxmox_described(self.proxmox),
        }

    def observed(self) -> dict[str, Any]:
        """What only an outsider sees: journals on disks against what guests were promised."""
        # Promises first: guests go on writing while their journals are read.
        promised = {each: self._promised(each) for each in self.witness.identities()}
        return {
            "guests": [
                _compared(site, native, journal, promised.get(journal.identity.hex(), []))
                for site, guests in (
                    (OPENSTACK, self.openstack.guests),
                    (PROXMOX, self.proxmox.node.guests),
                )
                for native, journal in guests.journals().items()
            ],
            "twoWriters": len(self.witness.overlaps()),
            "twoRunning": len(self.witness.twins()),
        }

    def _promised(self, identity: str) -> list[int]:
        """Writes of isolated runs do not count: an attempt that was rolled back made them."""
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
        faults = (self.openstack if wish["site"] == OPENSTACK else self.proxmox).faults
        if "bandwidth" in wish:
            faults.profile = replace(faults.profile, bandwidth=wish["bandwidth"])
        if wish.get("down"):
            faults.go_down()
        elif "down" in wish:
            faults.come_back()


def proxmox_described(sim: ProxmoxSim) -> dict[str, Any]:
    """How a simulated Proxmox VE is reached."""
    node, (host, ssh_port) = sim.credentials, sim.ssh_address
    return {
        "provider": "proxmox",
        "endpoint": sim.url,
        "country": "FR",
        "options": {"ssh_host": host, "ssh_port": str(ssh_port)},
        "pins": {"tls": node.fingerprint, "ssh": node.ssh_host_key},
        "credentials": {
            "token_id": node.token_id,
            "token_secret": node.token_secret,
            "ssh_key": node.ssh_private_key,
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


def _control(sites: Sites, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            sites.misbehave(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def do_GET(self) -> None:
            body = json.dumps(sites.observed()).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
            """Nothing is written."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ports", type=json.loads, default={})
    parser.add_argument("--profile", choices=sorted(PROFILES), default="realistic")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sites = Sites(given.folder, given.ports, PROFILES[given.profile], given.seed)
    sites.start()
    control = _control(sites, given.ports.get("control", 0))
    threading.Thread(target=control.serve_forever, daemon=True).start()
    place = given.folder / "sites.json"
    coming = place.with_suffix(".new")
    coming.touch(mode=0o600)
    coming.write_text(json.dumps(sites.described()))
    coming.replace(place)
    stop.wait()
    control.shutdown()
    control.server_close()
    sites.stop()


if __name__ == "__main__":
    main()
