"""The ssh side of a simulated site: oneadmin's shell where the datastores are."""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import asyncssh

from drivers.simulators.nbd import Content, FileContent
from drivers.simulators.opennebula import bitmaps, vms
from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.oned import Oned
from drivers.simulators.opennebula.qcow2 import Chain, NotQcow2
from drivers.simulators.opennebula.template import vectors
from drivers.simulators.ssh import Exports, Failed, Loop, SshServer, nbd_options, ran

_SUMS = "/var/tmp/fedctl"  # noqa: S108  # a path of the site
_SUMMING = 'sha256sum "$1" > "$2.new" && mv "$2.new" "$2"'


class DatastoreHost:
    """Where the datastores are, as oneadmin reaches it."""

    def __init__(self, site: Oned, *, port: int, host_key: str, authorized: str) -> None:
        self.site = site
        self._exports = Exports(site.faults)
        self._commands: dict[str, Callable[[list[str]], str]] = {
            "qemu-nbd": self._exported,
            "qemu-img": self._resized,
            "mkdir": self._mkdir,
            "readlink": self._readlink,
            "setsid": self._summed,
            "cat": self._cat,
            "rm": self._rm,
        }
        self._loop = Loop(f"ssh-{site.name}")
        self._server = SshServer(
            port=port,
            host_key=asyncssh.import_private_key(host_key),
            authorized=authorized,
            faults=site.faults,
            reads=("readlink", "pgrep"),
            run=lambda words, _: ran(self._commands, self._exports, words),
            streamed=self._exports.streamed,
        )
        site.writers = self._written_files

    @property
    def port(self) -> int:
        return self._server.port

    def start(self) -> None:
        self._loop.run(self._server.listen())

    def stop(self) -> None:
        """Refuse new connections and cut the open ones; exports go on."""
        self._loop.run(self._server.cut())

    def close(self) -> None:
        """End everything, exports too."""
        self._loop.run(self._exports.end())
        self._loop.run(self._server.cut())
        self._loop.close()

    def _written_files(self) -> set[Path]:
        return {export.file.resolve() for export in self._exports if not export.readonly}

    def _mkdir(self, words: list[str]) -> str:
        self._own(words[-1], "mkdir: cannot create directory")
        self.site.file(words[-1]).mkdir(parents=True, exist_ok=True)
        return ""

    def _readlink(self, words: list[str]) -> str:
        """`readlink -f`: a path of the site again, whether or not it is there."""
        root = self.site.file("").resolve()
        return f"/{self.site.file(words[-1]).resolve().relative_to(root)}\n"

    def _resized(self, words: list[str]) -> str:
        """`qemu-img resize -f FORMAT FILE BYTES`; clones are raw inside, whatever they say."""
        if words[:2] != ["resize", "-f"] or len(words) != 5:
            raise Failed(1, "qemu-img: this simulator only resizes")
        file, size = self._existing("qemu-img", words[3]), int(words[4])
        if size < file.stat().st_size:
            raise Failed(1, "qemu-img: Use the --shrink option to perform a shrink operation.")
        os.truncate(file, size)
        return "Image resized.\n"

    def _summed(self, words: list[str]) -> str:
        """`setsid -f sh -c SCRIPT NAME FILE TARGET`, of the one script that is known here."""
        if words[:4] != ["-f", "sh", "-c", _SUMMING] or len(words) != 7:
            raise Failed(127, "setsid: failed to execute")
        file, target = self._existing("sha256sum", words[5]), words[6]
        self._own(target, "sh: cannot create")

        def work() -> None:
            with file.open("rb") as reading:
                digest = hashlib.file_digest(reading, "sha256").hexdigest()
            place = self.site.file(target)
            coming = place.with_name(place.name + ".new")
            coming.write_text(f"{digest}  {words[5]}\n")
            coming.replace(place)

        threading.Thread(target=work, name="sha256sum", daemon=True).start()
        return ""

    def _cat(self, words: list[str]) -> str:
        return self._existing("cat", words[-1]).read_text()

    def _rm(self, words: list[str]) -> str:
        self._own(words[-1], "rm: cannot remove")
        self.site.file(words[-1]).unlink(missing_ok=True)
        return ""

    def _own(self, path: str, what: str) -> None:
        if not path.startswith((_SUMS, "/run/fedctl")) or ".." in path:
            raise Failed(1, f"{what} '{path}': Permission denied")

    def _existing(self, command: str, path: str) -> Path:
        file = self.site.file(path)
        if ".." in path or not file.exists():
            raise Failed(1, f"{command}: {path}: No such file or directory")
        return file

    # -- qemu-nbd ------------------------------------------------------------------------------

    def _exported(self, words: list[str]) -> str:
        options, path = nbd_options(words, "bitmap", "allocation-depth"), words[-1]
        file, content = self._content(path, options)
        self._exports.unbound(options["socket"])
        if "read-only" not in options:
            self._exclusive(file, path)
        self._exports.begin(words, options, file, content)
        return ""

    def _content(
        self, path: str, options: dict[str, str]
    ) -> tuple[Path, Callable[[], Content] | None]:
        """The file that is opened, and what of it shows; backups are real qcow2 files."""
        layered, name = "allocation-depth" in options, options.get("bitmap", "")
        if path.startswith("json:"):
            if "format" in options:
                raise Failed(1, "qemu-nbd: Failed to blk_new_open: Driver specified twice")
            chain = [self._opening(each) for each in _chained(path)]
            return chain[0], self._backup(chain, layered=layered)
        file = self._opening(path)
        if f"/{one.DATASTORES.strip('/')}/{one.BACKUP_DS}/" in path:
            return file, self._backup([file], layered=layered)
        if not name:
            return file, None
        dirty = bitmaps.changed(file, name)
        if dirty is None:
            raise Failed(1, f"qemu-nbd: Bitmap '{name}' is not found")
        readonly = "read-only" in options
        return file, lambda: FileContent(file, readonly=readonly, bitmap_name=name, bitmap=dirty)

    def _opening(self, path: str) -> Path:
        return self._existing(f"qemu-nbd: Failed to blk_new_open '{path}'", path).resolve()

    def _backup(self, files: list[Path], *, layered: bool) -> Callable[[], Content]:
        try:
            Chain(files, layered=layered).close()
        except NotQcow2 as e:
            raise Failed(1, f"qemu-nbd: Failed to blk_new_open '{files[0].name}': {e}") from e
        return lambda: Chain(files, layered=layered)

    def _exclusive(self, file: Path, path: str) -> None:
        """QEMU's image locks: no writer beside a running VM."""
        with self.site.lock:
            held = {
                self.site.file(vms.disk_path(vm, disk)).resolve()
                for vm in self.site.vms.values()
                if vm.state == one.ACTIVE
                for disk in vectors(vm.template, "DISK")
            }
        if file in held:
            raise Failed(
                1,
                f"qemu-nbd: Failed to blk_new_open '{path}': Failed to get \"write\" lock"
                " Is another process using the image?",
            )


def _chained(path: str) -> list[str]:
    """The files of a `json:` image, the newest first; each says what lies behind it."""
    at, files = json.loads(path.removeprefix("json:")), []
    while at is not None:
        if at["driver"] != "qcow2" or "backing" not in at:
            raise Failed(1, "qemu-nbd: this simulator only chains qcow2 files, without their own")
        files.append(str(at["file"]["filename"]))
        at = at["backing"]
    return files
