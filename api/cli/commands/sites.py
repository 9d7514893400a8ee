"""fedctl site, sweep: provider endpoints, and what lies there unaccounted for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from api.cli import units
from api.cli.client import Doc, started
from api.cli.commands.access import rate
from api.cli.completion import offering
from api.cli.failure import Stopped
from api.cli.names import find
from api.cli.session import Facts, Form, Output, Rows, Session, Yes, command, field
from api.cli.watch import check, follow, name_of
from api.schemas.errors import NEEDS_ATTENTION
from controlplane.domain.errors import Invalid
from controlplane.domain.hours import DAYS
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
SITE = facts(Kind.SITE)
Site = Annotated[str, typer.Argument(help="The site.", autocompletion=offering(Kind.SITE))]
OneSite = Annotated[
    str | None, typer.Argument(help="One site only.", autocompletion=offering(Kind.SITE))
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]


@command(
    app,
    "add",
    "fedctl site add gra-openstack --provider openstack --endpoint https://keystone.example:5000/v3"
    " --region eu-fr --credentials gra.json",
    "fedctl site add par-pve --provider proxmox --endpoint https://pve.example:8006"
    " --region eu-fr --country FR --credentials - < par.json",
    text="Registers a site, gives it credentials and verifies it.",
)
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What to call it, at most 32 characters.")],
    *,
    provider: Annotated[str, typer.Option(help="openstack, proxmox, ...")],
    endpoint: Annotated[str, typer.Option(help="The provider's own URL.")],
    region: Annotated[str, typer.Option(help="The domain of law it lies in.")] = "eu-fr",
    country: Annotated[str | None, typer.Option(help="Two letters, such as FR.")] = None,
    credentials: Annotated[
        str | None, typer.Option(help="A JSON file of secrets; '-' is stdin.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="KEY=VALUE for this provider.")
    ] = None,
    pin: Annotated[
        list[str] | None, typer.Option("--pin", help="KEY=FINGERPRINT to hold it to.")
    ] = None,
    max_bandwidth: Annotated[
        str | None, typer.Option("--max-bandwidth", help="To and from it, such as 50MiB/s.")
    ] = None,
    no_wait: NoWait = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        secrets = None if credentials is None else _secrets(credentials)
        spec: dict[str, object] = {"provider": provider, "endpoint": endpoint, "region": region}
        spec |= {"country": country} if country else {}
        spec |= {"options": pairs(option, "--option")} if option else {}
        spec |= {"pins": pairs(pin, "--pin")} if pin else {}
        if max_bandwidth:
            spec |= {"maxBandwidth": rate(max_bandwidth, "--max-bandwidth")}
        session.client.put(SITE, name, spec)
        if secrets is not None:
            path = f"{session.client.path(SITE, name)}/credentials"
            session.client.send("PUT", path, json={"secrets": secrets})
        session.say(f"Registered {name} ({provider}) in {region}.")
        _verify(session, name, wait=not no_wait)


@command(app, "list", "fedctl site list", "fedctl site list -o json", text="Lists sites.")
def list_sites(ctx: typer.Context, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        items = session.client.list(SITE)
        rows = [
            (
                each["metadata"]["name"],
                each["spec"]["provider"],
                each["spec"]["region"],
                each["spec"].get("country", ""),
                each["status"]["state"],
                _health(each),
                each["status"].get("version", ""),
            )
            for each in items
        ]
        columns = ("NAME", "PROVIDER", "REGION", "COUNTRY", "STATE", "HEALTH", "VERSION")
        session.data(items, Rows(columns, rows))


@command(app, "show", "fedctl site show par-pve", "fedctl site show par -o yaml", text="Shows one.")
def show(
    ctx: typer.Context,
    name: Site,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        site = find(session, Kind.SITE, name).document
        session.data(site, Facts(_facts(site)))


@command(
    app,
    "limit",
    "fedctl site limit par-pve --max-moves 4 --max-bandwidth 50MiB/s --image-clients 192.0.2.0/24",
    "fedctl site limit par-pve --bandwidth-hours 'mon-fri 08:00-18:00 10MiB/s Europe/Paris'",
    text="Bounds what passes between us and a site (what runs keeps to it within seconds), how many"
    " moves run there at once, and who may fetch images for it.",
)
def limit(
    ctx: typer.Context,
    name: Site,
    *,
    max_bandwidth: Annotated[
        str | None, typer.Option("--max-bandwidth", help="Such as 50MiB/s; none lifts it.")
    ] = None,
    bandwidth_hours: Annotated[
        list[str] | None,
        typer.Option(
            "--bandwidth-hours",
            help="Such as 'mon-fri 08:00-18:00 10MiB/s Europe/Paris', each; none lifts all.",
        ),
    ] = None,
    max_moves: Annotated[
        str | None,
        typer.Option("--max-moves", help="Such as 4; 0 lets none begin, none lifts it."),
    ] = None,
    max_snapshots: Annotated[
        str | None,
        typer.Option("--max-snapshots", help="Asked for at a time, such as 2; none lifts it."),
    ] = None,
    image_clients: Annotated[
        str | None,
        typer.Option(
            "--image-clients",
            help="Addresses and networks that its hosts fetch images from; none: from anywhere.",
        ),
    ] = None,
) -> None:
    with Session(ctx) as session:
        said = {max_bandwidth, max_moves, max_snapshots, image_clients}
        if said == {None} and bandwidth_hours is None:
            raise Invalid(
                "say what to limit: --max-bandwidth, --bandwidth-hours, --max-moves,"
                " --max-snapshots or --image-clients"
            )
        site = find(session, Kind.SITE, name)
        spec = dict(site.document["spec"])
        if max_bandwidth is not None:
            spec["maxBandwidth"] = _unless_none(max_bandwidth, "--max-bandwidth", rate)
        if bandwidth_hours is not None:
            lifted = bandwidth_hours == ["none"]
            spec["bandwidthHours"] = None if lifted else [_hours(each) for each in bandwidth_hours]
        if max_moves is not None:
            spec["maxMoves"] = _unless_none(max_moves, "--max-moves", _number)
        if max_snapshots is not None:
            spec["maxSnapshots"] = _unless_none(max_snapshots, "--max-snapshots", _number)
        if image_clients is not None:
            listed = [each.strip() for each in image_clients.split(",")]
            spec["imageClients"] = None if image_clients == "none" else listed
        spec = {k: v for k, v in spec.items() if v is not None}
        session.client.put(SITE, site.name, spec)
        session.say(f"{site.name}: {_limits(spec) or 'no limit'}.")


@command(
    app,
    "verify",
    "fedctl site verify par-pve",
    "fedctl site verify par-pve --no-wait",
    text="Logs in there and looks what it can.",
)
def verify(
    ctx: typer.Context,
    name: Site,
    *,
    no_wait: NoWait = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        _verify(session, find(session, Kind.SITE, name).name, wait=not no_wait)


@command(
    app,
    "survey",
    "fedctl site survey par-pve",
    "fedctl site survey --all",
    text="Looks which copies a site holds, stops and fences those that are no homes, lifts its"
    " freeze.",
)
def survey(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The site.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Every site.")] = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        if (name is None) is not every:
            raise Invalid("name one site, or say --all")
        names = (
            [find(session, Kind.SITE, name).name]
            if name is not None
            else [each["metadata"]["name"] for each in session.client.list(SITE)]
        )
        reports = [_surveyed(session, each) for each in names]
        if len(names) > 1:  # the fence of a home goes once every site was seen
            reports = [*reports[-1:], *(_surveyed(session, each) for each in names[:-1])]
        session.data({"sites": reports})
        _tell_survey(session, reports)


def _surveyed(session: Session, name: str) -> Doc:
    path = started(session.client.send("POST", f"{session.client.path(SITE, name)}/survey"))
    operation = follow(session, path, f"Surveying {name}")
    check(operation, what=f"Site {name} could not be surveyed and stays as it was")
    report: Doc = operation["status"]["result"]["survey"]
    return report


def _tell_survey(session: Session, reports: list[Doc]) -> None:
    for report in reports:
        session.say(f"{report['site']}: {report['homes']} home(s) where they belong")
        for what, text in _SURVEY.items():
            for each in report[what]:
                session.say(f"  {each}: {text}")


_SURVEY = {
    "stilled": "not the home; off and fenced",
    "freed": "the home; its fence is lifted, start it with fedctl instance start",
    "left": "left to the operation that holds it",
    "missing": "its home is NOT at the site: look there",
    "strange": "left as it is: look whose it is",
    "unaccounted": "on no record (fedctl orphans list)",
}


@command(
    app,
    "scan",
    "fedctl site scan par-pve",
    "fedctl site scan par-pve -o json",
    text="Lists the machines there that are not ours, and what stands against adopting each.",
)
def scan(ctx: typer.Context, name: Site, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        site = find(session, Kind.SITE, name).name
        path = started(session.client.send("POST", f"{session.client.path(SITE, site)}/scan"))
        operation = follow(session, path, f"Scanning {site}")
        check(operation, what=f"Site {site} could not be scanned")
        scanned = operation["status"]["result"]["scan"]
        columns = ("ID", "NAME", "POWER", "SIZE", "DISKS", "ADDRESS", "ADOPTABLE")
        rows = [_machine(each) for each in scanned["machines"]]
        session.data(scanned, Rows(columns, rows))
        for machine in scanned["machines"]:
            for finding in machine["findings"]:
                session.say(
                    f"{machine['ref']}  {finding['severity']:<8}  {finding['id']}"
                    f"  {finding['evidence']}: {finding['remedy']}"
                )
        if any(machine["adoptable"] for machine in scanned["machines"]):
            session.say(f"next    fedctl instance adopt NAME --site {site} --id ID")


def _machine(machine: Doc) -> tuple[object, ...]:
    nics = [nic["address"] or nic["mac"] for nic in machine["nics"]]
    return (
        machine["ref"],
        machine["name"],
        machine["power"] or "",
        f"{machine['cpus']} vCPU / {units.size(machine['memory'])}",
        ", ".join(units.size(disk["size"]) for disk in machine["disks"]),
        ", ".join(nics),
        "yes" if machine["adoptable"] else "no",
    )


@command(
    app,
    "remove",
    "fedctl site remove par-pve",
    "fedctl site remove par-pve --yes",
    text="Forgets a site that holds nothing of ours any more.",
)
def remove(
    ctx: typer.Context,
    name: Site,
    *,
    yes: Yes = False,
) -> None:
    with Session(ctx) as session:
        site = find(session, Kind.SITE, name)
        question = f"Forget site {site.name} and its credentials? Nothing there is deleted."
        if session.agreed(question, yes=yes):
            session.client.send("DELETE", session.client.path(SITE, site.name))
            session.say(f"Forgot {site.name}.")


def sweep(
    ctx: typer.Context,
    site: OneSite = None,
    *,
    no_wait: NoWait = False,
    output: Output = Form.TABLE,
) -> None:
    """Compares what lies at the sites with what is recorded."""
    with Session(ctx, form=output) as session:
        if site is None:
            path = "/providers/fedctl.federation/v1/sweep"
        else:
            path = f"{session.client.path(SITE, find(session, Kind.SITE, site).name)}/sweep"
        operation_path = started(session.client.send("POST", path))
        if no_wait:
            operation = session.client.document("GET", operation_path)
            session.data(operation, Rows(("OPERATION",), [[name_of(operation)]]))
            return
        operation = follow(session, operation_path, "Sweeping")
        session.data(operation)
        check(operation, what="The sweep ended")
        _tell_orphans(session, operation["status"]["result"])


def _tell_orphans(session: Session, result: Doc) -> None:
    """Says that all is accounted for, or stops with every object that is not."""
    swept = result.get("sites", [])
    strange = [
        f"{site['site']}  {what}  {each}"
        for site in swept
        for what in ("unaccounted", "missing")
        for each in site[what]
    ]
    for site in swept:
        session.say(f"{site['site']}: {site['accounted']} accounted for")
    if strange:
        raise Stopped(
            f"{len(strange)} object(s) differ from what is recorded; nothing was deleted.",
            exit_code=NEEDS_ATTENTION,
            notes=(*strange, f"exit {NEEDS_ATTENTION}"),
        )
    session.say("Everything at the sites is accounted for.")


def _verify(session: Session, name: str, *, wait: bool) -> None:
    answer = session.client.send("POST", f"{session.client.path(SITE, name)}/verify")
    path = started(answer)
    operation = session.client.document("GET", path)
    if not wait:
        session.data(operation, Rows(("OPERATION",), [[name_of(operation)]]))
        return
    operation = follow(session, path, f"Verifying {name}")
    check(operation, what=f"Site {name} could not be verified")
    site = session.client.get(SITE, name)
    session.data(site, Facts(_facts(site)))


def _facts(site: Doc) -> dict[str, object]:
    status = site["status"]
    return {
        "name": site["metadata"]["name"],
        "provider": site["spec"]["provider"],
        "endpoint": site["spec"]["endpoint"],
        "region": site["spec"]["region"],
        "country": site["spec"].get("country"),
        "state": status["state"],
        "health": status.get("health"),
        "version": status.get("version"),
        "can": ", ".join(status.get("capabilities", [])),
        "networks": ", ".join(n["name"] for n in status.get("networks", [])),
        "warnings": "; ".join(status.get("warnings", [])),
        "problem": field(site, "status", "problem", "message"),
        "seen": units.local(status["lastSeenAt"]) if status.get("lastSeenAt") else None,
        "limits": _limits(site["spec"]),
        "frozen": _frozen(site),
        "credentials": "given" if status.get("hasCredentials") else "none",
    }


def _limits(spec: Doc) -> str:
    """What bounds the work with a site; empty where nothing does."""
    found = []
    if "maxBandwidth" in spec:
        found.append(f"{units.size(spec['maxBandwidth'])}/s at most")
    found += [
        f"{units.size(each['maxBandwidth'])}/s {','.join(each.get('days', ['daily']))}"
        f" {each['from']}-{each['to']} {each.get('timeZone', 'UTC')}"
        for each in spec.get("bandwidthHours", [])
    ]
    if "maxMoves" in spec:
        found.append(f"{spec['maxMoves']} moves at once")
    if "maxSnapshots" in spec:
        found.append(f"{spec['maxSnapshots']} snapshots at a time")
    if "imageClients" in spec:
        found.append(f"images for {', '.join(spec['imageClients'])} only")
    return ", ".join(found)


def _hours(text: str) -> Doc:
    """Of `mon-fri 08:00-18:00 10MiB/s Europe/Paris`; days and zone may be left out."""
    words = text.split()
    days = _days(words.pop(0)) if words and not words[0][:1].isdecimal() else None
    if len(words) not in {2, 3} or words[0].count("-") != 1:
        raise Invalid(
            f"--bandwidth-hours is {text!r}: write days, hours, a rate and a time zone, such as"
            " 'mon-fri 08:00-18:00 10MiB/s Europe/Paris'"
        )
    start, end = words[0].split("-")
    hours: Doc = {"from": start, "to": end, "maxBandwidth": rate(words[1], "--bandwidth-hours")}
    hours |= {"days": days} if days else {}
    return hours | ({"timeZone": words[2]} if words[2:] else {})


def _days(text: str) -> list[str]:
    """Of `mon-fri`, `sat,sun` or `mon`."""
    found: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise Invalid(f"{text!r} names no days: write such as mon-fri or sat,sun")
        count = (DAYS.index(last or first) - DAYS.index(first)) % 7 + 1
        found += [DAYS[(DAYS.index(first) + i) % 7] for i in range(count)]
    return list(dict.fromkeys(found))


def _unless_none(text: str, option: str, read: Callable[[str, str], int]) -> int | None:
    return None if text == "none" else read(text, option)


def _number(text: str, option: str) -> int:
    if not text.isdecimal():
        raise Invalid(f"{option} is {text!r}: write a number, or none")
    return int(text)


def _health(site: Doc) -> str:
    health = str(site["status"].get("health", ""))
    return f"{health}, frozen" if site["status"].get("frozen") else health


def _frozen(site: Doc) -> str | None:
    """Since when nothing is done there, and why."""
    frozen = site["status"].get("frozen")
    if not frozen:
        return None
    since, name = units.local(frozen["since"]), site["metadata"]["name"]
    return f"since {since}, {frozen['why']}: fedctl site survey {name}"


def _secrets(source: str) -> dict[str, str]:
    text = typer.get_text_stream("stdin").read() if source == "-" else _text(Path(source))
    try:
        found = json.loads(text)
    except ValueError as e:
        raise Invalid("--credentials must hold a JSON object of texts") from e
    if not isinstance(found, dict) or not found:
        raise Invalid("--credentials must hold a JSON object of texts")
    return {str(key): str(value) for key, value in found.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as e:
        raise Invalid(f"{path} cannot be read: {e.strerror}") from e


def pairs(given: list[str] | None, option: str) -> dict[str, str]:
    """KEY=VALUE, as often as it was said."""
    found = {}
    for each in given or []:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise Invalid(f"{option} is {each!r}: write KEY=VALUE")
        found[key] = value
    return found
