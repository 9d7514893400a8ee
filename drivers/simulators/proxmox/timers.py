"""Transient timers of the node: systemd-run, and systemctl for their units."""

import threading
from collections.abc import Callable
from contextlib import suppress

from drivers.simulators.proxmox.params import Fails, Refused
from drivers.simulators.ssh import Failed


class Timers:
    """`run` runs a command of the node, given as its words."""

    def __init__(self, run: Callable[[list[str]], object]) -> None:
        self._run = run
        self._timers: dict[str, threading.Timer] = {}

    def units(self) -> list[str]:
        return list(self._timers)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def start(self, words: list[str]) -> str:
        """systemd-run."""
        options = dict(w.removeprefix("--").partition("=")[::2] for w in words if w[:2] == "--")
        unit, command = options["unit"], [w for w in words if w[:2] != "--"]
        if unit in self._timers:
            raise Failed(1, f"Failed to start transient timer unit: Unit {unit}.timer was already"
                            " loaded or has a fragment file.")  # fmt: skip

        def elapsed() -> None:
            self._timers.pop(unit, None)
            with suppress(Failed, Refused, Fails):
                self._run(command)

        timer = threading.Timer(float(options["on-active"]), elapsed)
        timer.daemon = True
        self._timers[unit] = timer
        timer.start()
        return f"Running timer as unit: {unit}.timer\n"

    def systemctl(self, words: list[str]) -> str:
        unit = words[-1].removesuffix(".timer")
        if words[:1] == ["is-active"]:
            if unit not in self._timers:
                raise Failed(3, "inactive")
            return "active\n"
        timer = self._timers.pop(unit, None)
        if words[:1] != ["stop"] or timer is None:
            raise Failed(5, f"Failed to stop {words[-1]}: Unit {words[-1]} not loaded.")
        timer.cancel()
        return ""
