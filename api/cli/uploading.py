"""Sending a file in parts, and going on where it broke off."""

import hashlib
import shlex
import threading
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from api.cli.client import Doc, started
from api.cli.failure import Stopped
from api.cli.session import Session
from api.schemas.errors import DETACHED, EXIT
from controlplane.domain.errors import Busy, Invalid, Unavailable
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind

UPLOAD = facts(Kind.IMAGE_UPLOAD)
_PART = 8 * 1024 * 1024
_TRIES = 6
_AGAIN = frozenset({EXIT[Busy], EXIT[Unavailable]})
_WRONG_OFFSET = "wrong-offset"


def upload(session: Session, name: str, file: Path, spec: Doc) -> str:
    """The path of the import that begins once all bytes of `file` are there."""
    try:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            length = opened.tell()
    except OSError as e:
        raise Invalid(f"{file} cannot be read: {e.strerror}") from e
    if not length:
        raise Invalid(f"{file} is empty: give an image, raw or qcow2")
    wish = {**spec, "sizeBytes": length, "sha256": digest}
    begun = session.client.put(UPLOAD, name, wish)
    if begun.json()["status"]["state"] == "error":  # it was refused before: begin anew
        session.client.send("DELETE", session.client.path(UPLOAD, name))
        begun = session.client.put(UPLOAD, name, wish)
    received = int(begun.json()["status"]["received"])
    if received >= length:
        return started(begun)
    if received:
        session.say(f"Goes on at byte {received} of {length}.")
    try:
        return _send(session, name, file, received, length)
    except KeyboardInterrupt:
        raise Stopped(
            f"Left the upload of {file.name}; what was sent is kept.",
            exit_code=DETACHED,
            notes=("say the same command again to go on",),
        ) from None


def _send(session: Session, name: str, file: Path, received: int, length: int) -> str:
    path = f"{session.client.path(UPLOAD, name)}/data"
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=session.talk,
        disable=not session.talk.is_terminal,
    )
    failures = 0
    with bar, file.open("rb") as opened:
        task = bar.add_task(f"Uploading {file.name}", total=length, completed=received)
        while True:
            opened.seek(received)
            part = opened.read(_PART)
            last = received + len(part) - 1
            headers = {
                "Content-Range": f"bytes {received}-{last}/{length}",
                "Content-Type": "application/octet-stream",
            }
            piped = f"tail -c +{received + 1} {shlex.quote(str(file))} | head -c {len(part)}"
            try:
                answer = session.client.send(
                    "PUT", path, content=part, headers=headers, piped=piped
                )
            except (Unavailable, Stopped) as e:
                failures += 1
                if failures > _TRIES or not _worth_another_try(e):
                    raise
                threading.Event().wait(0.2 * 2**failures)
                received = _received(session, name, received)
                continue
            failures = 0
            received = int(answer.json()["status"]["received"])
            bar.update(task, completed=received)
            if received >= length:
                return started(answer)


def _worth_another_try(error: Unavailable | Stopped) -> bool:
    if isinstance(error, Unavailable):
        return True
    return error.exit_code in _AGAIN or error.reason == _WRONG_OFFSET


def _received(session: Session, name: str, known: int) -> int:
    """Where to go on; while nobody answers, where we were."""
    try:
        return int(session.client.get(UPLOAD, name)["status"]["received"])
    except Unavailable:
        return known
