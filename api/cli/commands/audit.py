"""fedctl audit: what was asked and done, and the proof that nothing of it was changed."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from api.cli import units
from api.cli.session import Form, Output, Rows, Session, command
from controlplane.audit.checkpoint import parse_verifier_key
from controlplane.audit.export import verify
from controlplane.domain.errors import Invalid
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
BASE = "/providers/fedctl.federation/v1"
_RECENT = 1000


@command(
    app,
    "list",
    "fedctl audit list",
    "fedctl audit list -o json",
    text="The entries of your tenant.",
)
def list_entries(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(help="At most so many, oldest first.")] = _RECENT,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        items = session.client.list(facts(Kind.AUDIT_ENTRY), limit=limit)
        rows = [
            (
                each["spec"]["sequence"],
                units.local(each["spec"]["at"]),
                each["spec"]["actor"],
                each["spec"]["action"],
                each["spec"]["outcome"],
                each["spec"]["subject"],
            )
            for each in items
        ]
        columns = ("NUMBER", "AT", "WHO", "ACTION", "OUTCOME", "SUBJECT")
        session.data(items, Rows(columns, rows))


@command(
    app,
    "export",
    "fedctl audit export --file audit.jsonl",
    "fedctl audit export | gzip > audit.jsonl.gz",
    text="Writes the whole log, signed up to its end.",
)
def export(
    ctx: typer.Context,
    file: Annotated[Path | None, typer.Option("-f", "--file", help="Where to write it.")] = None,
) -> None:
    with Session(ctx) as session:
        lines = session.client.lines(f"{BASE}/audit-log")
        if file is None:
            for line in lines:
                sys.stdout.write(f"{line}\n")
            return
        with file.open("w") as opened:
            opened.writelines(f"{line}\n" for line in lines)
        session.say(f"Wrote {file}.")
        session.say(
            f"  next    fedctl audit key > audit.key; fedctl audit verify {file} --key audit.key"
        )


@command(
    app,
    "key",
    "fedctl audit key > audit.key",
    "fedctl audit key",
    text="The public key of the log. Keep it apart from the log.",
)
def key(ctx: typer.Context, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        text = session.client.send("GET", f"{BASE}/audit-key").text.strip()
        session.data({"key": text})
        if session.form is Form.TABLE:
            sys.stdout.write(f"{text}\n")


@command(
    app,
    "verify",
    "fedctl audit verify audit.jsonl --key audit.key",
    "fedctl audit verify audit.jsonl --key audit.key --held earlier.note",
    text="Checks an exported log, without any server.",
)
def verify_log(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The exported log.")],
    *,
    public_key: Annotated[str, typer.Option("--key", help="The public key, or a file of it.")],
    held: Annotated[
        list[Path] | None, typer.Option("--held", help="A checkpoint you kept from earlier.")
    ] = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        origin, raw = parse_verifier_key(_key_text(public_key))
        notes = [_text(path) for path in held or []]
        try:
            with file.open() as lines:
                verified = verify(lines, raw, origin=origin, held=notes)
        except (OSError, UnicodeDecodeError) as e:
            raise Invalid(f"{file} cannot be read as a log: {e}") from e
        document = {
            "verified": True,
            "entries": verified.entries,
            "checkpoints": verified.checkpoints,
            "origin": verified.origin,
            "root": verified.root.hex(),
        }
        session.data(document)
        session.say(
            f"Verified: all {verified.entries} entries are as they were signed"
            f" ({verified.checkpoints} checkpoint(s) of {verified.origin})."
        )


def _key_text(given: str) -> str:
    path = Path(given)
    return _text(path) if path.is_file() else given


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise Invalid(f"{path} cannot be read: {e}") from e
