"""`make demo`: the main job on real bytes, with refusals, failures and killed workers.

Starts an embedded system in a folder of its own, makes a disk image (or takes one), and brings an
instance around five sites of five kinds and home again. This module owns processes and faults; all
else goes through the fedctl command, as a person would type it. Writes demo-report.json.
"""

import argparse
import json
import os
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx

from drivers.simulators.journal import PARTITION_TYPE, format_journal

MIB = 1024 * 1024
SECTOR = 512
OPENSTACK, PROXMOX, XCPNG = "gra-openstack", "par-pve", "ant-xcp"
OPENNEBULA, OVHCLOUD = "bru-one", "rbx-metal"
NETWORKS = {PROXMOX: "vmbr0", OVHCLOUD: "pn-100"}  # elsewhere it is shop-net
INSTANCE = "web-1"
_READY = 180.0
_FILES = 240
_FAT_SIZE = 96 * MIB
_JOURNAL_SIZE = 4 * MIB
_IMAGE_SIZE = 256 * MIB
_SLOW = 8 * MIB
_DEADLY = ("copying", "target")
_WITHIN, _AWAY, _LONGEST = 1.0, 3.0, 900.0
_EXIT_BLOCKED, _EXIT_ROLLED_BACK = 20, 21
_STEP = re.compile(r"  (ok|>>|<<|\.\.)  ")


class Failed(Exception):  # named for the situation
    """The demonstration did not show what it promised."""


def say(text: str) -> None:
    sys.stdout.write(f"\n== {text}\n")
    sys.stdout.flush()


def must(condition: object, what: str) -> None:
    if not condition:
        raise Failed(what)


# The image


def make_image(path: Path, *, seed: int) -> None:
    """A raw disk: MBR, a FAT16 file system full of files, and a journal partition."""
    fat = path.with_suffix(".fat")
    _fill_fat(fat, seed)
    first = MIB
    journal = first + _FAT_SIZE
    table = _partition(0x0E, first, _FAT_SIZE, active=True) + _partition(
        PARTITION_TYPE, journal, _JOURNAL_SIZE, active=False
    )
    with path.open("wb") as disk, fat.open("rb") as content:
        disk.write(bytes(440) + struct.pack("<IH", seed, 0) + table.ljust(64, b"\0") + b"\x55\xaa")
        disk.seek(first)
        shutil.copyfileobj(content, disk, MIB)
        disk.seek(journal)
        disk.write(format_journal(random.Random(seed).randbytes(16), _JOURNAL_SIZE))  # noqa: S311  # an identity, no secret
        disk.truncate(_IMAGE_SIZE)
    fat.unlink()


def _partition(kind: int, start: int, size: int, *, active: bool) -> bytes:
    return struct.pack(
        "<B3sB3sII",
        0x80 if active else 0,
        b"\xfe\xff\xff",
        kind,
        b"\xfe\xff\xff",
        start // SECTOR,
        size // SECTOR,
    )


def _fill_fat(path: Path, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own dependencies are deprecated, not our use of it
        from pyfatfs.PyFat import PyFat  # noqa: PLC0415  # slow to import, needed here only
        from pyfatfs.PyFatFS import PyFatFS  # noqa: PLC0415
    chance = random.Random(seed)  # noqa: S311  # content of files, no secret
    path.write_bytes(b"")
    volume = PyFat()
    volume.mkfs(str(path), PyFat.FAT_TYPE_FAT16, size=_FAT_SIZE, label="DEMO")
    volume.close()
    files = PyFatFS(str(path))
    for number in range(_FILES):
        size = chance.randrange(1, 400_000)
        content = chance.randbytes(size) if number % 2 else (f"line {number}\n" * size)[:size]
        with files.openbin(f"/FILE{number:03}.DAT", "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
    files.close()


# The system


class System:
    """One embedded system and the fedctl command that speaks to it."""

    def __init__(self, folder: Path) -> None:
        self._killed = 0
        self.folder = folder
        self.state = folder / "state"
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "api.embedded", "--state", str(self.state)],
            start_new_session=True,
        )
        try:
            self._await_ready()
            yield
        finally:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(60)

    def _await_ready(self) -> None:
        until = monotonic() + _READY
        while True:
            must(self._process and self._process.poll() is None, "fedctl dev did not start")
            must(monotonic() < until, f"fedctl dev was not ready within {_READY:.0f} s")
            if (self.state / "ready").exists():
                return
            _pause(0.1)

    @property
    def ports(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.state / "ports.json").read_text())
        return found

    def ask(self, *arguments: str) -> Any:  # noqa: ANN401  # JSON
        """Look something up for the report, silently."""
        done = self._run(*arguments, "-o", "json", stderr=subprocess.DEVNULL)
        self._ended(arguments, done.returncode, 0)
        return json.loads(done.stdout)

    def fedctl(self, *arguments: str, expect: int = 0) -> None:
        """Run fedctl as a person would, with all that it says."""
        self._shown(arguments)
        self._ended(arguments, self._run(*arguments, stdout=None).returncode, expect)

    def briefly(self, *arguments: str, expect: int = 0) -> None:
        """The same without its steps."""
        self._shown(arguments)
        done = self._run(*arguments, stderr=subprocess.STDOUT)
        told = [line for line in done.stdout.splitlines() if not _STEP.match(line)]
        sys.stdout.write("\n".join(told).rstrip() + "\n")
        self._ended(arguments, done.returncode, expect)

    def _shown(self, arguments: tuple[str, ...]) -> None:
        sys.stdout.write(f"$ fedctl {shlex.join(arguments)}\n")
        sys.stdout.flush()

    def _run(
        self,
        *arguments: str,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.STDOUT,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "api.cli.main", *arguments],
            env={**os.environ, "XDG_CONFIG_HOME": str(self.folder / "config")},  # noqa: TID251  # a composition root
            stdout=stdout,
            stderr=stderr,
            text=True,
            check=False,
        )

    def _ended(self, arguments: tuple[str, ...], code: int, expect: int) -> None:
        must(code == expect, f"fedctl {arguments[0]} ended with {code}, not {expect}")

    def login(self) -> None:
        with (self.state / "password").open() as password:
            done = subprocess.run(
                [
                    sys.executable, "-m", "api.cli.main", "login",
                    f"http://127.0.0.1:{self.ports['api']}", "--user", "admin",
                    "--password-stdin",
                ],
                env={**os.environ, "XDG_CONFIG_HOME": str(self.folder / "config")},  # noqa: TID251  # a composition root
                stdin=password,
                check=False,
            )  # fmt: skip
        must(done.returncode == 0, "login failed")

    def operation(self, name: str) -> dict[str, Any]:
        """As fedctl reads it, without starting a process each time."""
        contexts = json.loads((self.folder / "config" / "fedctl" / "contexts.json").read_text())
        context = contexts["contexts"][contexts["current"]]
        found: dict[str, Any] = (
            httpx.get(
                f"{context['url']}/providers/fedctl.federation/v1/tenants/{context['tenant']}"
                f"/workspaces/shop/operations/{name}",
                headers={"Authorization": f"Bearer {context['token']}"},
                timeout=30,
            )
            .raise_for_status()
            .json()
        )
        return found

    def worker(self) -> int:
        return int(json.loads((self.state / "processes.json").read_text())["worker"])

    def kill_worker(self) -> int:
        """The one that works now, which may have just taken over from the last."""
        until = monotonic() + _READY
        while monotonic() < until:
            if (pid := self.worker()) != self._killed:
                os.kill(pid, signal.SIGKILL)
                self._killed = pid
                return pid
            _pause(0.05)
        raise Failed("no worker took over from the killed one")

    def sites(self, wish: dict[str, object]) -> None:
        """Let a simulated site misbehave, or stop doing so."""
        self._control().post("/", json=wish).raise_for_status()

    def observed(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._control().get("/").raise_for_status().json()
        return answer

    def _control(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.ports['control']}", timeout=30)


def _pause(seconds: float) -> None:
    signal.sigtimedwait([], seconds)


# The story


class Demo:
    def __init__(self, system: System, image: Path) -> None:
        self.system = system
        self.image = image
        self.report: dict[str, Any] = {
            "moves": [], "refused": [], "rolled_back": [], "faults": [], "audit": {},
            "leftovers": [], "witness": [],
        }  # fmt: skip

    def run(self) -> None:
        system = self.system
        system.login()
        system.fedctl("site", "list")
        say("upload a disk image, and make an instance of it on OpenStack")
        system.briefly("workspace", "create", "shop")
        system.briefly("image", "upload", str(self.image), "--name", "demo")
        system.briefly(
            "instance", "create", INSTANCE, "--workspace", "shop", "--site", OPENSTACK,
            "--image", "demo", "--sku", "seca.ds", "--network", "shop-net",
            "--address", "10.0.4.12", "--start",
        )  # fmt: skip
        sys.stdout.write(
            "While it runs its guest writes numbered records to its disk; an outsider notes each\n"
            "that the guest was told is safe, and looks for it again after every move.\n"
        )
        say("1 of 5: to Proxmox VE, cold, with every step")
        self.move(PROXMOX)
        say("a move that must be refused: more downtime than is allowed")
        self.refused()
        say("a move whose acceptance check fails: it is undone, and the instance runs on at home")
        self.rolled_back()
        say("2 of 5: to OpenNebula, while workers are killed and the source is cut off")
        self.move_through_hard_times(OPENNEBULA)
        say("3 of 5: to XCP-ng, warm: it runs until the cutover, which waits for you")
        self.move_warm(XCPNG)
        say("4 of 5: onto a bare-metal server of OVHcloud, whose nics and disk are its own")
        self.move(OVHCLOUD, brief=True)
        say("5 of 5: home to OpenStack, with all that was written on the way")
        self.move(OPENSTACK, brief=True)
        say("what is left at the five sites, and the audit log")
        self.swept()
        self.audited()
        system.fedctl("instance", "list")

    def move(self, to: str, *, brief: bool = False) -> None:
        home, began = self._home(), monotonic()
        run = self.system.briefly if brief else self.system.fedctl
        run("move", INSTANCE, *self._to(home, to), "--method", "cold", "--yes")
        self._moved(home, to, self._last_move(), monotonic() - began)

    @staticmethod
    def _to(home: str, to: str) -> tuple[str, ...]:
        rule = tuple(NETWORKS.get(site, "shop-net") for site in (home, to))
        return ("--to", to, *(("--network", "=".join(rule)) if rule[0] != rule[1] else ()))

    def _last_move(self) -> dict[str, Any]:
        found: dict[str, Any] = self.system.ask("moves", "show", INSTANCE)
        return found

    def _home(self) -> str:
        found = self.system.ask("instance", "show", INSTANCE)
        site: str = found["spec"]["zone"]
        return site

    def _operation(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.system.ask("operation", "show", f"shop/{name}")
        return found

    def _moved(self, home: str, to: str, move: dict[str, Any], seconds: float) -> None:
        status = move["status"]
        operation = self._operation(status["operation"])["status"]
        result, proof = operation["result"], status["proof"]
        must(self._home() == to, f"{INSTANCE} is not on {to}")
        must(proof and all(disk["equal"] for disk in proof), "the digests differ")
        self.report["moves"].append(
            {
                "instance": INSTANCE,
                "from": home,
                "to": to,
                "method": result["method"],
                "status": operation["outcome"],
                "bytes_read": result["bytesRead"],
                "bytes_sent": result["bytesSent"],
                "bytes_written": result["bytesWritten"],
                "seconds": round(seconds, 2),
                "downtime_seconds": status["downtimeSeconds"],
                "overhead_seconds": result["overheadSeconds"],
                "source_digest": proof[0]["sourceDigest"],
                "target_digest": proof[0]["targetDigest"],
            }
        )
        sys.stdout.write(f"proven: digest {proof[0]['targetDigest'][:16]} at both sites\n")
        self.witnessed(to)

    def witnessed(self, home: str) -> None:
        """What an outsider saw: guests keep a journal on their disk, and say what they wrote."""
        seen = self.system.observed()
        must(seen["twoRunning"] == 0, "two copies ran at once")
        must(not any(guest["lost"] for guest in seen["guests"]), "a durable write was lost")
        must([guest["site"] for guest in seen["guests"]] in ([], [home]), "it runs elsewhere")
        self.report["witness"].append(seen)
        for guest in seen["guests"]:
            sys.stdout.write(
                f"proven: the guest's journal has all {guest['promised']} records that it was told"
                f" are safe, over {guest['boots']} boots; no two copies ever ran at once\n"
            )

    def refused(self) -> None:
        home = self._home()
        self.system.briefly(
            "move", INSTANCE, *self._to(home, XCPNG), "--max-downtime", "1s", "--yes",
            expect=_EXIT_BLOCKED,
        )  # fmt: skip
        must(self._home() == home, "a refused move moved")
        found = self._last_move()["status"]["findings"]
        blockers = [f["id"] for f in found if f["severity"] == "blocker"]
        self.report["refused"].append({"instance": INSTANCE, "to": XCPNG, "why": blockers})

    def rolled_back(self) -> None:
        home = self._home()
        self.system.briefly(
            "move", INSTANCE, *self._to(home, OPENSTACK), "--method", "cold", "--yes",
            "--check", "booted:no guest prints this@5s", expect=_EXIT_ROLLED_BACK,
        )  # fmt: skip
        must(self._home() == home, "a failed move moved")
        status = self._last_move()["status"]
        shown = self.system.ask("instance", "show", INSTANCE)["status"]
        must(shown["powerState"] == "on", f"{INSTANCE} does not run again")
        self.report["rolled_back"].append(
            {"instance": INSTANCE, "to": OPENSTACK, "why": status["problem"]["message"]}
        )

    def move_through_hard_times(self, to: str) -> None:
        """The worker is killed in the long phases, and the source is cut off in the copy."""
        seed = random.SystemRandom().randrange(1 << 32)
        chance = random.Random(seed)  # noqa: S311  # a demonstration's, not a secret
        sys.stdout.write(f"the moments are drawn from seed {seed}\n")
        home, began = self._home(), monotonic()
        self.system.sites({"site": home, "bandwidth": _SLOW})
        self.system.briefly(
            "move", INSTANCE, *self._to(home, to), "--method", "cold", "--yes", "--no-wait"
        )
        name = self._last_move()["status"]["operation"]
        hit: set[str] = set()
        while not (status := self.system.operation(name)["status"]).get("outcome"):
            must(monotonic() - began < _LONGEST, f"the move hangs in {status['phase']}")
            if (phase := status["phase"]) in _DEADLY and phase not in hit:
                hit.add(phase)
                _pause(chance.uniform(0, _WITHIN))
                self._kill_in(phase)
                if phase == "copying":
                    self._cut_off(home)
            _pause(0.05)
        must(hit == set(_DEADLY), f"only {sorted(hit)} was seen running")
        self.system.briefly("operation", "watch", f"shop/{name}")
        self._moved(home, to, self._last_move(), monotonic() - began)

    def _kill_in(self, phase: str) -> None:
        pid = self.system.kill_worker()
        sys.stdout.write(f"killed worker {pid} in phase {phase}\n")
        self.report["faults"].append({"what": "worker killed", "phase": phase})

    def _cut_off(self, site: str) -> None:
        self.system.sites({"site": site, "down": True})
        sys.stdout.write(f"cut off {site} for {_AWAY:g} s\n")
        _pause(_AWAY)
        self.system.sites({"site": site, "down": False, "bandwidth": None})
        self.report["faults"].append({"what": "site cut off", "seconds": _AWAY})

    def move_warm(self, to: str) -> None:
        home, began = self._home(), monotonic()
        self.system.briefly(
            "move", INSTANCE, *self._to(home, to), "--method", "warm", "--cutover", "manual",
            "--yes", "--no-wait",
        )  # fmt: skip
        name = self._last_move()["status"]["operation"]
        why = self._await_cutover(name)
        sys.stdout.write(f"the move waits: {why}\n")
        shown = self.system.ask("instance", "show", INSTANCE)["status"]
        must(shown["powerState"] == "on", f"{INSTANCE} does not run while it is copied")
        self.system.fedctl("moves", "cutover", INSTANCE)
        self.system.briefly("operation", "watch", f"shop/{name}")
        self._moved(home, to, self._last_move(), monotonic() - began)

    def _await_cutover(self, name: str) -> str:
        until = monotonic() + _LONGEST
        while monotonic() < until:
            status = self.system.operation(name)["status"]
            must(not status.get("outcome"), f"the move ended too soon: {status.get('problem')}")
            if waits := str(status.get("waitsFor") or ""):
                return waits
            _pause(0.1)
        raise Failed("the move never came to its cutover")

    def swept(self) -> None:
        self.system.briefly("moves", "finalize", INSTANCE, "--yes")
        done = self.system.ask("sweep")
        for site in done["status"]["result"]["sites"]:
            self.report["leftovers"] += [*site["unaccounted"], *site["missing"]]
        must(not self.report["leftovers"], f"left behind: {self.report['leftovers']}")

    def audited(self) -> None:
        log, key = self.system.folder / "audit.jsonl", self.system.folder / "audit.key"
        self.system.fedctl("audit", "export", "--file", str(log))
        found = self.system.ask("audit", "key")
        key.write_text(found["key"] if isinstance(found, dict) else str(found))
        self.system.fedctl("audit", "verify", str(log), "--key", str(key))
        verified = self.system.ask("audit", "verify", str(log), "--key", str(key))
        self.report["audit"] = {"entries": verified["entries"], "verified": True}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"))
    parser.add_argument("--image", type=Path, help="a raw or qcow2 image to take instead")
    parser.add_argument("--report", type=Path, default=Path("demo-report.json"))
    given = parser.parse_args()
    began = monotonic()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    image = given.image or given.folder / "demo.raw"
    if given.image is None:
        make_image(image, seed=2026)
    demo = Demo(System(given.folder.resolve()), image)
    try:
        with demo.system.running():
            demo.run()
    except (Failed, httpx.HTTPError, OSError) as failure:
        sys.stdout.write(f"\ndemo: failed: {failure}\n")
        return 1
    demo.report["seconds"] = round(monotonic() - began, 1)
    given.report.write_text(json.dumps(demo.report, indent=2) + "\n")
    for move in demo.report["moves"]:
        sys.stdout.write(
            f"{move['from']} -> {move['to']}: {move['method']}, {move['seconds']:.0f} s,"
            f" down {move['downtime_seconds']:.0f} s, digests equal\n"
        )
    sys.stdout.write(f"demo: ok after {demo.report['seconds']:.0f} s; see {given.report}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
