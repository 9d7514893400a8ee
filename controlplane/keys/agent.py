"""The key agent: one process of a machine that holds the opened root key and lends its use.

    python -m controlplane.keys.agent --socket PATH --root FILE --passphrase-file FILE

Without a passphrase file it starts sealed and waits for `AgentClient.unseal`.
"""

import argparse
import contextlib
import logging
import os
import resource
import signal
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from controlplane.domain.errors import Conflict, Denied, FedctlError, Invalid, NotFound
from controlplane.keys import sealed_file, wire
from controlplane.keys.port import SigningPurpose
from controlplane.keys.root import LocalAgent

_PATH_MAX = 100  # sun_path holds 108 bytes
_IDLE_SECONDS = 3600.0
_PEER = struct.Struct("3i")

_log = logging.getLogger("fedctl.key-agent")


class Agent:
    """Answers one request at a time per connection; knows the sealed file to unseal from."""

    def __init__(self, *, root: Path, holder: LocalAgent | None = None) -> None:
        self._root = root
        self._holder = holder or LocalAgent()
        self._unsealing = threading.Lock()  # one guess at a time
        self._acts: dict[str, Callable[[wire.Frame], wire.Frame]] = {
            "status": self._status,
            "wrap": self._wrap,
            "unwrap": self._unwrap,
            "derive": self._derive,
            "sign": self._sign,
            "public-key": self._public_key,
            "unseal": self._unseal,
            "seal": self._seal,
        }

    def answer(self, request: wire.Frame) -> wire.Frame:
        """The reply to `request`; a refusal is a reply too, and never holds a secret."""
        try:
            return {"ok": True} | self._done(request)
        except FedctlError as e:
            return {"ok": False, "code": e.code, "reason": e.reason, "message": str(e)}

    def unseal(self, passphrase: str) -> None:
        with self._unsealing:
            self._holder.unseal(sealed_file.unlock(self._root, passphrase))

    def _done(self, request: wire.Frame) -> wire.Frame:
        op = wire.word(request, "op")
        try:
            act = self._acts[op]
        except KeyError:
            raise Invalid(
                f"the key agent knows no {op[:40]!r}: update the older of the two"
            ) from None
        return act(request)

    def _status(self, _: wire.Frame) -> wire.Frame:
        return {"root": self._holder.status().root}

    def _wrap(self, request: wire.Frame) -> wire.Frame:
        wrapped = self._holder.wrap(wire.name_of(request), wire.raw_of(request, "key"))
        return {"wrapped": wire.text_of(wrapped)}

    def _unwrap(self, request: wire.Frame) -> wire.Frame:
        key = self._holder.unwrap(wire.name_of(request), wire.raw_of(request, "wrapped"))
        return {"key": wire.text_of(key)}

    def _derive(self, request: wire.Frame) -> wire.Frame:
        return {"key": wire.text_of(self._holder.derive(wire.word(request, "label")))}

    def _sign(self, request: wire.Frame) -> wire.Frame:
        signature = self._holder.sign(_signing(request), wire.raw_of(request, "message"))
        return {"signature": wire.text_of(signature)}

    def _public_key(self, request: wire.Frame) -> wire.Frame:
        return {"key": wire.text_of(self._holder.public_key(_signing(request)))}

    def _unseal(self, request: wire.Frame) -> wire.Frame:
        self.unseal(wire.word(request, "passphrase"))
        return self._status(request)

    def _seal(self, request: wire.Frame) -> wire.Frame:
        self._holder.seal()
        return self._status(request)


def _signing(request: wire.Frame) -> SigningPurpose:
    try:
        return SigningPurpose(wire.word(request, "signing"))
    except ValueError:
        raise Invalid("the key agent has no such signing key") from None


class _Conversation(socketserver.BaseRequestHandler):
    request: socket.socket
    server: "AgentServer"

    def handle(self) -> None:
        if not self._may_speak():
            return
        self.request.settimeout(_IDLE_SECONDS)
        with contextlib.suppress(OSError):
            while True:
                try:
                    asked = wire.receive(self.request)
                except Invalid as e:
                    wire.send(self.request, {"ok": False, "code": e.code, "message": str(e)})
                    return
                reply = self.server.agent.answer(asked)
                _log.debug("%s: %s", asked.get("op"), "done" if reply["ok"] else reply["code"])
                wire.send(self.request, reply)

    def _may_speak(self) -> bool:
        raw = self.request.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid, uid, _ = _PEER.unpack(raw)
        if uid in self.server.uids:
            return True
        _log.warning("refused process %d of user %d", pid, uid)
        refusal = Denied(
            f"the key agent does not serve user {uid}: run as the user who owns its socket"
        )
        with contextlib.suppress(OSError):
            wire.send(self.request, {"ok": False, "code": refusal.code, "message": str(refusal)})
        return False


class AgentServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The agent on a unix socket that only its own user may open."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path, agent: Agent, *, uids: frozenset[int] | None = None) -> None:
        self.agent = agent
        self.uids = frozenset({os.geteuid()}) if uids is None else uids
        if len(os.fsencode(path)) > _PATH_MAX:
            raise Invalid(
                f"the socket path {path} is too long for the system: choose a shorter one"
            )
        _clear(path)
        before = os.umask(0o177)
        try:
            super().__init__(str(path), _Conversation)
        finally:
            os.umask(before)

    def server_close(self) -> None:
        super().server_close()
        Path(str(self.server_address)).unlink(missing_ok=True)

    def handle_error(
        self,
        request: socket.socket | tuple[bytes, socket.socket],  # noqa: ARG002  # as inherited
        client_address: object,  # noqa: ARG002  # as inherited
    ) -> None:
        # the default prints locals-free traces to stderr; the name of the error is enough
        _log.error("a conversation ended with %s", type(sys.exception()).__name__)


def _clear(path: Path) -> None:
    """Remove a dead agent's socket; a living agent keeps its place."""
    if not path.is_socket():
        if path.exists():
            raise Conflict(f"{path} exists and is no socket: choose another path")
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise Conflict(f"a key agent serves {path} already: stop it first")


def _passphrase(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        raise NotFound(f"no passphrase file at {path}: give its path, or unseal by hand") from None
    except OSError as e:
        raise Denied(f"the passphrase file {path} cannot be read: {e.strerror}") from e


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fedctl-key-agent", description="hold the root key")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to serve on")
    parser.add_argument("--root", type=Path, required=True, help="sealed root key")
    parser.add_argument("--passphrase-file", type=Path, help="opens the root key at the start")
    parser.add_argument(
        "--create", action="store_true", help="make the sealed root key if there is none"
    )
    return parser.parse_args(given)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 2 and one line of text when that cannot begin."""
    given = _arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the root key
    try:
        agent = Agent(root=given.root)
        if given.passphrase_file is not None:
            passphrase = _passphrase(given.passphrase_file)
            if given.create and not given.root.exists():
                sealed_file.create(given.root, passphrase)
            agent.unseal(passphrase)
        server = AgentServer(given.socket, agent)
    except FedctlError as e:
        _log.error("%s", e)  # the message says it all
        return 2

    def stop(_number: int, _frame: FrameType | None) -> None:
        # shutdown() waits for serve_forever(), which runs in this very thread
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with server:
        _log.info("serving %s", given.socket)
        server.serve_forever(poll_interval=0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
