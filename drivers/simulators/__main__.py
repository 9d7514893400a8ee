"""All simulated sites of an embedded system in one process: `python -m drivers.simulators FOLDER`.

Writes FOLDER/sites.json (0600): how each site is reached, with its credentials. The control port
(loopback only) answers a GET with what an outsider saw of the guests, and a POST lets a
demonstration or a test misbehave on purpose.
"""

import argparse
import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from drivers.simulators.faults import PROFILES
from drivers.simulators.sites import Sites


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
