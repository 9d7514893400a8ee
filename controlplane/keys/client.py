"""A key agent at the other end of a unix socket. Used by any number of threads."""

import contextlib
import socket
import threading
from pathlib import Path

from controlplane.domain.errors import FedctlError, Integrity, Unavailable
from controlplane.keys import wire
from controlplane.keys.port import AGENT_UNREACHABLE, AgentStatus, KeyName, SigningPurpose

_IDLE_MAX = 4


class AgentClient:
    """A `KeyAgent`. Each call takes at most `timeout` seconds per try."""

    def __init__(self, path: Path, *, timeout: float = 5.0) -> None:
        self._path = path
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._closed = False

    def status(self) -> AgentStatus:
        root = self._ask({"op": "status"}).get("root")
        return AgentStatus(root=root if isinstance(root, str) else None)

    def wrap(self, name: KeyName, material: bytes) -> bytes:
        reply = self._ask(wire.frame_of(name) | {"op": "wrap", "key": wire.text_of(material)})
        return wire.raw_of(reply, "wrapped")

    def unwrap(self, name: KeyName, wrapped: bytes) -> bytes:
        reply = self._ask(wire.frame_of(name) | {"op": "unwrap", "wrapped": wire.text_of(wrapped)})
        return wire.raw_of(reply, "key")

    def derive(self, label: str) -> bytes:
        return wire.raw_of(self._ask({"op": "derive", "label": label}), "key")

    def sign(self, purpose: SigningPurpose, message: bytes) -> bytes:
        reply = self._ask({"op": "sign", "signing": str(purpose), "message": wire.text_of(message)})
        return wire.raw_of(reply, "signature")

    def public_key(self, purpose: SigningPurpose) -> bytes:
        return wire.raw_of(self._ask({"op": "public-key", "signing": str(purpose)}), "key")

    def unseal(self, passphrase: str) -> AgentStatus:
        """Open the root key in the agent; `Denied` for a wrong passphrase."""
        self._ask({"op": "unseal", "passphrase": passphrase})
        return self.status()

    def seal(self) -> None:
        """Make the agent forget the root key."""
        self._ask({"op": "seal"})

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(self, request: wire.Frame) -> wire.Frame:
        kept = self._kept()
        if kept is not None:
            with contextlib.suppress(OSError):  # the agent was started anew since: connect again
                return self._exchange(kept, request)
        try:
            return self._exchange(self._connected(), request)
        except OSError as e:
            raise Unavailable(
                f"the key agent at {self._path} does not answer: start it, then try again",
                detail=type(e).__name__,
                reason=AGENT_UNREACHABLE,
            ) from e

    def _exchange(self, connection: socket.socket, request: wire.Frame) -> wire.Frame:
        try:
            with contextlib.suppress(BrokenPipeError):  # why it hung up can be read all the same
                wire.send(connection, request)
            reply = wire.receive(connection)
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        if reply.get("ok") is True:
            return reply
        raise _refusal(reply)

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self._timeout)
            connection.connect(str(self._path))
        except BaseException:
            connection.close()
            raise
        return connection

    def _kept(self) -> socket.socket | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()


def _refusal(reply: wire.Frame) -> FedctlError:
    message, reason = str(reply.get("message", "")), str(reply.get("reason", ""))
    for kind in FedctlError.__subclasses__():
        if kind.code == reply.get("code"):
            return kind(message, reason=reason)
    return Integrity(f"the key agent answered in words not known here: {message}")
