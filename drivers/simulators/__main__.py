"""All simulated sites of an embedded system in one process: `python -m drivers.simulators FOLDER`.

Writes FOLDER/sites.json (0600): how each site is reached, with its credentials. A POST to the
control port lets a demonstration or a test misbehave on purpose; it listens on loopback only.
"""

import argparse
import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from drivers.simulators.faults import PROFILES, Profile
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
        cloud, node = self.openstack.credentials, self.proxmox.credentials
        host, ssh_port = self.proxmox.ssh_address
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
            PROXMOX: {
                "provider": "proxmox",
                "endpoint": self.proxmox.url,
                "country": "FR",
                "options": {"ssh_host": host, "ssh_port": str(ssh_port)},
                "pins": {"tls": node.fingerprint, "ssh": node.ssh_host_key},
                "credentials": {
                    "token_id": node.token_id,
                    "token_secret": node.token_secret,
                    "ssh_key": node.ssh_private_key,
                },
            },
        }

    def misbehave(self, wish: dict[str, Any]) -> None:
        """`{"site": name, "down": bool}` cuts a site off or brings it back."""
        site = self.openstack if wish["site"] == OPENSTACK else self.proxmox
        if wish["down"]:
            site.faults.go_down()
        else:
            site.faults.come_back()


def _control(sites: Sites, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            sites.misbehave(json.loads(body))
            self.send_response(204)
            self.end_headers()

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
