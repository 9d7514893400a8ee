"""fedctl support: what to send to somebody who helps, and no secret in it."""

import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from api.cli import units
from api.cli.bundle import Part, contents, write
from api.cli.client import Doc
from api.cli.commands.events import recent_events
from api.cli.commands.operations import recent_operations
from api.cli.effective import Setting, effective
from api.cli.failure import Stopped
from api.cli.masking import masked, scrubbed
from api.cli.names import workspace_names
from api.cli.session import Form, Output, Session, command
from api.cli.watch import ended, name_of
from api.schemas.version import fedctl_version
from controlplane.domain.errors import FedctlError, Unavailable
from controlplane.domain.kinds import facts
from controlplane.domain.operation import OperationState
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_METRICS = "/providers/fedctl.federation/v1/metrics"
_RECENT = 50
_SITE_SPEC = ("provider", "region", "country", "maxBandwidth", "maxMoves", "maxSnapshots",
              "imageClients")  # fmt: skip
_SITE_STATUS = ("state", "health", "version", "capabilities", "warnings", "lastSeenAt",
                "hasCredentials", "problem")  # fmt: skip
_OPERATION = ("operationState", "outcome", "phase", "startedAt", "endedAt", "problem",
              "cancelRequested")  # fmt: skip
_FAILURE = ("outcome", "startedAt", "endedAt", "problem", "findings", "steps")
_MOVE = ("state", "phase", "findings", "estimate", "downtimeSeconds", "waitsFor")
_FINE = frozenset({OperationState.SUCCEEDED, None})


@command(
    app,
    "bundle",
    "fedctl support bundle",
    "fedctl support bundle --file case-7.tar.gz",
    text="Packs versions, settings, states, failures and figures; no secret is in it.",
)
def bundle(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="Where to write it; default: here, dated.")
    ] = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        now = datetime.now(UTC)
        target = file or Path(f"fedctl-support-{now:%Y%m%dT%H%M%SZ}.tar.gz")
        parts = _collected(session, effective(ctx, session))
        size = write(target, parts, now)
        told = [{k: v for k, v in asdict(part).items() if k != "text" and v} for part in parts]
        session.data({"file": str(target), "parts": told})
        session.say(f"Wrote {target} ({units.size(size)}); only you can read it. It holds:")
        for line in contents(parts).splitlines():
            session.say(f"  {line}")
        session.say(
            "No credentials, tokens, passphrases, user data or orders; look before you send."
        )


def _collected(session: Session, settings: list[Setting]) -> list[Part]:
    """Every part; once nobody answers, nobody is asked again."""
    operations: list[Doc] = []

    def newest() -> list[Doc]:
        operations.extend(recent_operations(session, limit=_RECENT))
        return [_operation(each) for each in operations]

    def failed() -> list[Doc]:
        wrong = [each["metadata"]["ref"] for each in operations if _went_wrong(each)]
        return [_failure(session.client.document("GET", f"/providers/{ref}")) for ref in wrong]

    sources: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("versions.json", "versions of the command, of Python, of the system", _versions),
        ("settings.json", "each setting and its origin; tokens are masked",
         lambda: [asdict(each) for each in settings]),
        ("server.json", "version and region of the server, who asked", lambda: _server(session)),
        ("sites.json", "what each site is and can; no endpoint, option or credential",
         lambda: [_site(each) for each in session.client.list(facts(Kind.SITE))]),
        ("operations.json", f"the newest {_RECENT} of each place, without orders", newest),
        ("failures.json", "those of them that went wrong: steps, findings, why", failed),
        ("findings.json", "what the plans of moves found", lambda: _findings(session)),
        ("metrics.txt", "the figures that Prometheus reads",
         lambda: session.client.send("GET", _METRICS).text),
        ("audit-checkpoints.json", "signed heads of the audit log",
         lambda: session.client.list(facts(Kind.AUDIT_CHECKPOINT), limit=_RECENT)),
        ("events.jsonl", "what changed last", lambda: _lines(recent_events(session))),
    )  # fmt: skip
    away = ""
    parts = []
    for name, what, source in sources:
        try:
            if away:
                raise Unavailable(away)
            parts.append(Part(name=name, what=what, text=_text(source())))
        except (Stopped, FedctlError) as e:
            away = str(e) if isinstance(e, Unavailable) else away
            parts.append(Part(name=name, what=what, missing=str(scrubbed(str(e)))))
    return parts


def _text(value: object) -> str:
    clean = scrubbed(value)
    return clean if isinstance(clean, str) else json.dumps(masked(clean), indent=2) + "\n"


def _lines(items: list[Doc]) -> str:
    return "".join(f"{json.dumps(scrubbed(each))}\n" for each in items)


def _versions() -> Doc:
    return {
        "fedctl": fedctl_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def _server(session: Session) -> Doc:
    return session.client.document("GET", "/providers/fedctl.identity/v1/me")


def _site(site: Doc) -> Doc:
    name = {"name": site["metadata"]["name"]}
    return name | _some(site["spec"], _SITE_SPEC) | _some(site["status"], _SITE_STATUS)


def _operation(operation: Doc) -> Doc:
    """Without its order: what was wished is its owner's."""
    about = {"name": name_of(operation), "createdAt": operation["metadata"]["createdAt"]}
    spec = _some(operation["spec"], ("kind", "subject", "planDigest", "deadline", "request"))
    return about | spec | _some(operation["status"], _OPERATION)


def _went_wrong(operation: Doc) -> bool:
    return bool(operation["status"].get("problem")) or ended(operation) not in _FINE


def _failure(operation: Doc) -> Doc:
    about = {"name": name_of(operation), "kind": operation["spec"]["kind"]}
    return about | _some(operation["status"], _FAILURE)


def _findings(session: Session) -> list[Doc]:
    return [
        {
            "move": f"{place}/{each['metadata']['name']}",
            "to": each["spec"]["target"]["site"],
            **_some(each["status"], _MOVE),
        }
        for place in workspace_names(session)
        for each in session.client.list(facts(Kind.MOVE), place, limit=_RECENT)
    ]


def _some(document: Mapping[str, object], names: tuple[str, ...]) -> Doc:
    return {name: document[name] for name in names if name in document}
