"""fedctl vault: whether what is stored of disks reads back, and how much it is."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from api.cli import units
from api.cli.client import Doc, started
from api.cli.completion import offering
from api.cli.failure import Stopped
from api.cli.names import find
from api.cli.session import Facts, Form, Output, Rows, Session, command
from api.cli.watch import check as succeeded
from api.cli.watch import follow, name_of
from api.schemas.errors import EXIT
from controlplane.domain.errors import Integrity, Invalid
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind
from controlplane.domain.vault import Depth

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
CHECK, STATS = facts(Kind.VAULT_CHECK), facts(Kind.VAULT_STATS)
Check = Annotated[str, typer.Argument(help="The check.", autocompletion=offering(Kind.VAULT_CHECK))]
_DAMAGED = EXIT[Integrity]
_SCOPES = ("all", "tenant", "workload")


@command(
    app,
    "check",
    "fedctl vault check",
    "fedctl vault check --depth full --name before-the-move",
    text="Reads stored disks back: heads, manifests and tables (structure), a share of all blobs"
    " too (sample, another part each time), or all of them (full). Deletes nothing. With the name"
    " of a check that was stopped it goes on where that was.",
)
def check(
    ctx: typer.Context,
    *,
    depth: Annotated[Depth, typer.Option(help="How much is read.")] = Depth.SAMPLE,
    share: Annotated[float, typer.Option(help="Of all blobs, for a sample.")] = 0.01,
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return at once.")] = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        if not 0 < share <= 1:
            raise Invalid(f"--share is {share}: write a part of 1, such as 0.01")
        called = name or f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
        spec: dict[str, object] = {"depth": depth.value}
        spec |= {"share": share} if depth is Depth.SAMPLE else {}
        path = started(session.client.put(CHECK, called, spec))
        if path and no_wait:
            operation = session.client.document("GET", path)
            session.data(operation, Rows(("OPERATION",), [[name_of(operation)]]))
            return
        if path:
            operation = follow(session, path, f"Checking the vault ({depth}) as {called}")
            succeeded(operation, what=f"Check {called} did not end (ask for it again to go on)")
        _tell(session, session.client.get(CHECK, called))


@command(
    app,
    "checks",
    "fedctl vault checks",
    "fedctl vault checks -o json",
    text="Lists checks and what they found.",
)
def checks(ctx: typer.Context, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        items = session.client.list(CHECK)
        rows = [
            (
                each["metadata"]["name"],
                each["spec"].get("depth", Depth.SAMPLE.value),
                each["status"]["state"],
                units.local(each["status"]["checkedAt"]) if "checkedAt" in each["status"] else "",
                units.size(each["status"].get("bytesRead", 0)),
                _found(each),
            )
            for each in items
        ]
        columns = ("NAME", "DEPTH", "STATE", "CHECKED", "READ", "FOUND")
        session.data(items, Rows(columns, rows))


@command(
    app,
    "show",
    "fedctl vault show scheduled",
    "fedctl vault show 20261130-101500 -o json",
    text="Shows a check and what it found; exits with 10 when that is damage.",
)
def show(ctx: typer.Context, name: Check, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        _tell(session, find(session, Kind.VAULT_CHECK, name).document)


@command(
    app,
    "stats",
    "fedctl vault stats",
    "fedctl vault stats --tenant acme -o json",
    text="How much is stored for whom, as the last check measured it.",
)
def stats(
    ctx: typer.Context,
    *,
    tenant: Annotated[str | None, typer.Option(help="Its figures and its workloads.")] = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        items = sorted(session.client.list(STATS), key=_by_scope)
        if tenant is not None:
            items = [each for each in items if each["spec"].get("tenant") == tenant]
        columns = (
            "OF", "POINTS", "LOGICAL", "DATA", "UNIQUE", "STORED", "RATIO", "EXCLUSIVE", "FREED",
            "NEXT POINT",
        )  # fmt: skip
        session.data(items, Rows(columns, [_row(each) for each in items]))
        if not items:
            what = (
                "Nothing was measured yet" if tenant is None else f"Nothing is stored of {tenant}"
            )
            session.say(f"{what}: fedctl vault check --depth structure measures.")
            return
        status = items[0]["status"]
        session.say(f"measured {units.age(status['measuredAt'])} ago by {status['measuredBy']}")
        for each in items:
            if each["spec"]["scope"] == "all":
                _tell_whole(session, each["status"])


def _tell(session: Session, found: Doc) -> None:
    """The check and its findings; stops where they tell of damage."""
    status = found["status"]
    name = found["metadata"]["name"]
    session.data(found, Facts(_facts(found)))
    findings = status.get("findings", [])
    for finding in findings:
        session.say(f"  {finding['severity']:<8}  {finding['id']}  {finding['subject']}")
        session.say(f"            {finding['evidence']}")
    for remedy in dict.fromkeys(finding.get("remedy", "") for finding in findings):
        ids = dict.fromkeys(f["id"] for f in findings if f.get("remedy", "") == remedy)
        if remedy:
            session.say(f"  next      {', '.join(ids)}: {remedy}")
    if status.get("damaged"):
        raise Stopped(
            "The vault is damaged. Nothing was deleted, and nothing damaged is handed out.",
            exit_code=_DAMAGED,
            notes=(f"look    fedctl vault show {name}", f"exit {_DAMAGED}"),
        )


def _facts(found: Doc) -> dict[str, object]:
    status = found["status"]
    sample = status.get("parts", 1) > 1
    return {
        "name": found["metadata"]["name"],
        "depth": found["spec"].get("depth", Depth.SAMPLE.value),
        "part": f"{status['turn'] % status['parts'] + 1} of {status['parts']}" if sample else None,
        "state": status["state"],
        "checked": units.local(status["checkedAt"]) if "checkedAt" in status else None,
        "packs": status.get("packs"),
        "blobs": f"{status['blobs']} read back" if "blobs" in status else None,
        "read": units.size(status["bytesRead"]) if "bytesRead" in status else None,
        "found": _found(found),
        "operation": status.get("operation"),
    }


def _found(found: Doc) -> str:
    status = found["status"]
    if status.get("damaged") is None:
        return ""
    count = len(status.get("findings", []))
    if status["damaged"]:
        return f"DAMAGE, {count} findings"
    return f"no damage, {count} findings" if count else "no damage"


def _by_scope(each: Doc) -> tuple[int, int]:
    """All, tenants, workloads; what stores most comes first."""
    return _SCOPES.index(each["spec"]["scope"]), -each["status"]["stored"]


def _row(each: Doc) -> tuple[object, ...]:
    spec, status = each["spec"], each["status"]
    name = {"all": "all", "tenant": f"tenant {spec.get('tenant')}"}.get(spec["scope"])
    return (
        name or spec["workload"],
        status["points"],
        units.size(status["logical"]),
        units.size(status["referenced"]),
        units.size(status["unique"]),
        units.size(status["stored"]),
        f"{status['ratio']:.2f}" if status.get("ratio") else "",
        units.size(status["exclusive"]),
        units.size(status["freed"]),
        units.size(status["nextStored"]),
    )


def _tell_whole(session: Session, status: Doc) -> None:
    packs = ", ".join(
        f"{count} {state} ({units.size(status['packBytes'][state])})"
        for state, count in status["packs"].items()
    )
    session.say(f"packs    {packs}; {units.size(status['waste'])} that no recovery point needs")
    if status["damaged"]:
        session.say(f"damaged  {status['damaged']} blobs or packs: fedctl vault check tells where")
