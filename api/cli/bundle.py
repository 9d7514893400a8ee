"""A file to send to somebody who helps: its parts, packed so that only its owner reads it."""

import io
import os
import tarfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from controlplane.domain.errors import Conflict, Invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file. `missing` says why it could not be had; `text` is empty then."""

    name: str
    what: str
    text: str = ""
    missing: str = ""


def write(file: Path, parts: list[Part], now: datetime) -> int:
    """The size of the archive in bytes; Conflict where something is there already."""
    folder = file.name.removesuffix(".tar.gz")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in [("CONTENTS.txt", contents(parts)), *((p.name, p.text) for p in parts)]:
            data = text.encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(now.timestamp())
            if data:
                archive.addfile(entry, io.BytesIO(data))
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as e:
        raise Conflict(f"{file} is there already: say another --file") from e
    except OSError as e:
        raise Invalid(f"{file} cannot be written: {e.strerror}") from e
    with os.fdopen(descriptor, "wb") as opened:
        return opened.write(made.getvalue())


def contents(parts: list[Part]) -> str:
    """A line for each part: what is in it, or why it is not there."""
    width = max(len(part.name) for part in parts)
    told = (f"not there: {part.missing}" if part.missing else part.what for part in parts)
    lines = [f"{part.name.ljust(width)}  {text}" for part, text in zip(parts, told, strict=True)]
    return "\n".join([*lines, ""])
