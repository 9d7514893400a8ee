"""fedctl instance: made, shown, switched, deleted."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import httpx
import typer

from api.cli import units
from api.cli.client import Doc
from api.cli.commands.sites import NoWait
from api.cli.completion import offering
from api.cli.failure import Stopped
from api.cli.names import Found, find, split, workspace_names
from api.cli.plans import kept_text
from api.cli.session import (
    Facts,
    Form,
    Output,
    Rows,
    Session,
    Workspace,
    Yes,
    command,
    field,
)
from api.cli.watch import finish
from api.schemas.errors import EXIT
from controlplane.domain.errors import Invalid, NotFound
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
INSTANCE = facts(Kind.INSTANCE)
VOLUME = facts(Kind.BLOCK_STORAGE)
PLACEMENT = facts(Kind.PLACEMENT)
_GIB_IN_MIB = 1024
Name = Annotated[
    str,
    typer.Argument(
        help="A name, its beginning, or workspace/name.", autocompletion=offering(Kind.INSTANCE)
    ),
]


@command(
    app,
    "create",
    "fedctl instance create web-1 --image debian-13 --site gra-openstack --network shop-net",
    "fedctl instance create shop/db-1 --image debian-13 --site par-pve --sku seca.dm --size 40"
    " --start",
    text="Makes an instance with a boot disk from an image.",
)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Its name, or workspace/name.")],
    *,
    site: Annotated[
        str, typer.Option(help="Where it is to be.", autocompletion=offering(Kind.SITE))
    ],
    image: Annotated[
        str,
        typer.Option(
            help="What its boot disk is filled from.", autocompletion=offering(Kind.IMAGE)
        ),
    ],
    sku: Annotated[str, typer.Option(help="Its size, such as seca.ss.")] = "seca.s2xs",
    size: Annotated[
        int | None, typer.Option("--size", help="Its boot disk in GiB; default: the image's.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="A network of the site.")] = None,
    address: Annotated[str | None, typer.Option(help="The address it is to have.")] = None,
    mac: Annotated[str | None, typer.Option(help="The MAC address it is to have.")] = None,
    firmware: Annotated[str | None, typer.Option(help="bios or uefi.")] = None,
    ssh_key: Annotated[
        list[Path] | None, typer.Option("--ssh-key", help="A public key file.")
    ] = None,
    user_data: Annotated[Path | None, typer.Option("--user-data", help="For cloud-init.")] = None,
    start: Annotated[bool, typer.Option("--start", help="Switch it on when it is there.")] = False,
    workspace: Workspace = None,
    no_wait: NoWait = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        where, called = split(session, name)
        disk = f"{called}-boot"
        source = find(session, Kind.IMAGE, image)
        session.client.put(VOLUME, disk, _disk(source, size), workspace=where)
        spec: dict[str, object] = {
            "skuRef": {"resource": f"skus/{sku}"},
            "zone": site,
            "bootVolume": {"deviceRef": {"resource": f"{VOLUME.collection}/{disk}"}},
        }
        if ssh_key:
            spec["sshKeys"] = [_text(path).strip() for path in ssh_key]
        if user_data:
            spec["userData"] = _text(user_data)
        wished = {"network": network, "address": address, "mac": mac, "firmware": firmware}
        extensions = {f"fedctl:{key}": value for key, value in wished.items() if value}
        answer = session.client.put(INSTANCE, called, spec, workspace=where, extensions=extensions)
        title = f"Creating {where}/{called} on {site}"
        if finish(session, answer, title, wait=not no_wait) is None and no_wait:
            return
        if start:
            path = f"{session.client.path(INSTANCE, called, where)}/start"
            answer = session.client.send("POST", path)
            finish(session, answer, f"Starting {where}/{called}", wait=True)
        _show(session, Found(document={}, name=called, workspace=where))
        if not start:
            session.say(f"next    fedctl instance start {where}/{called}")


@command(
    app,
    "adopt",
    "fedctl instance adopt web-1 --site par-pve --id 104",
    "fedctl instance adopt shop/db-1 --site gra-openstack"
    " --id 7c1f0e5e-9d0a-4c56-8a57-1f6f1f5d7f10",
    text="Takes a machine that a site has already under management, while it goes on as it is.",
)
def adopt(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="What to call it here, or workspace/name.")],
    *,
    site: Annotated[str, typer.Option(help="Where it is.", autocompletion=offering(Kind.SITE))],
    id: Annotated[  # noqa: A002  # the option's name
        str, typer.Option("--id", help="Its id there, as fedctl site scan shows it.")
    ],
    workspace: Workspace = None,
    no_wait: NoWait = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        where, called = split(session, name)
        there = find(session, Kind.SITE, site).name
        path = f"{session.client.path(facts(Kind.SITE), there)}/machines/{quote(id, safe='')}/adopt"
        wish = {"tenant": session.client.context.tenant, "workspace": where, "name": called}
        answer = session.client.send("POST", path, json=wish)
        title = f"Adopting {id} at {there} as {where}/{called}"
        done = finish(session, answer, title, wait=not no_wait)
        if done is None:
            return
        _show(session, Found(document={}, name=called, workspace=where))
        for finding in done["status"].get("findings", []):
            session.say(f"{finding['severity']:<8}  {finding['id']}  {finding['evidence']}")
        session.say(f"next    fedctl move {where}/{called} --to SITE")


@command(
    app,
    "list",
    "fedctl instance list",
    "fedctl instance list -w shop -o json",
    text="Lists instances.",
)
def list_instances(
    ctx: typer.Context,
    workspace: Workspace = None,
    labels: Annotated[str, typer.Option(help="Only those, such as tier=web.")] = "",
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        only = session.context.workspace
        places = [only] if only else workspace_names(session)
        sizes = _sizes(session)
        items: list[Doc] = []
        rows = []
        for place in places:
            for each in session.client.list(INSTANCE, place, labels):
                items.append(each)
                rows.append(_row(each, place, sizes, plain=bool(only)))
        columns = ("NAME", "SITE", "STATE", "POWER", "SIZE", "ADDRESS", "AGE")
        session.data(items, Rows(columns, rows))


@command(
    app,
    "show",
    "fedctl instance show web-1",
    "fedctl instance show shop/web-1 -o yaml",
    text="Shows one.",
)
def show(
    ctx: typer.Context, name: Name, workspace: Workspace = None, output: Output = Form.TABLE
) -> None:
    with Session(ctx, form=output, workspace=workspace) as session:
        _show(session, find(session, Kind.INSTANCE, name))


@command(
    app,
    "start",
    "fedctl instance start web-1",
    "fedctl instance start web-1 --no-wait",
    text="Powers it on.",
)
def start(
    ctx: typer.Context, name: Name, *, workspace: Workspace = None, no_wait: NoWait = False
) -> None:
    _act(ctx, name, "start", "Starting", workspace, wait=not no_wait, hard=False)


@command(
    app,
    "stop",
    "fedctl instance stop web-1",
    "fedctl instance stop web-1 --hard",
    text="Asks the guest to shut down.",
)
def stop(
    ctx: typer.Context,
    name: Name,
    *,
    hard: Annotated[bool, typer.Option("--hard", help="Cut the power.")] = False,
    workspace: Workspace = None,
    no_wait: NoWait = False,
) -> None:
    _act(ctx, name, "stop", "Stopping", workspace, wait=not no_wait, hard=hard)


@command(
    app,
    "restart",
    "fedctl instance restart web-1",
    "fedctl instance restart web-1 --hard",
    text="Off and on again.",
)
def restart(
    ctx: typer.Context,
    name: Name,
    *,
    hard: Annotated[bool, typer.Option("--hard", help="Cut the power.")] = False,
    workspace: Workspace = None,
    no_wait: NoWait = False,
) -> None:
    _act(ctx, name, "restart", "Restarting", workspace, wait=not no_wait, hard=hard)


@command(
    app,
    "delete",
    "fedctl instance delete web-1",
    "fedctl instance delete shop/web-1 --yes",
    text="Deletes an instance and its disks.",
)
def delete(
    ctx: typer.Context,
    name: Name,
    *,
    yes: Yes = False,
    workspace: Workspace = None,
    no_wait: NoWait = False,
) -> None:
    with Session(ctx, workspace=workspace) as session:
        found = find(session, Kind.INSTANCE, name)
        disks = _disks(found.document)
        zone = found.document["spec"]["zone"]
        question = f"Delete {found} on {zone} and its disks ({', '.join(disks)})?"
        if not session.agreed(question, yes=yes):
            return
        path = session.client.path(INSTANCE, found.name, found.workspace)
        answer = session.client.send("DELETE", path)
        if finish(session, answer, f"Deleting {found}", wait=not no_wait) is None and no_wait:
            session.say(f"its disks stay on record until you delete them: {', '.join(disks)}")
            return
        for disk in disks:
            _forget(session, disk, found.workspace)
        session.say(f"Deleted {found}.")


def _act(
    ctx: typer.Context,
    name: str,
    action: str,
    title: str,
    workspace: str | None,
    *,
    wait: bool,
    hard: bool,
) -> None:
    with Session(ctx, workspace=workspace) as session:
        found = find(session, Kind.INSTANCE, name)
        path = f"{session.client.path(INSTANCE, found.name, found.workspace)}/{action}"
        params = {"manner": "hard"} if hard else None
        answer: httpx.Response = session.client.send("POST", path, params=params)
        if finish(session, answer, f"{title} {found}", wait=wait) is not None:
            now = session.client.get(INSTANCE, found.name, found.workspace)
            session.say(f"{found} is {now['status']['powerState']}.")


def _forget(session: Session, disk: str, workspace: str) -> None:
    try:
        session.client.send("DELETE", session.client.path(VOLUME, disk, workspace))
    except Stopped as e:
        if e.exit_code != EXIT[NotFound]:
            raise


def _disk(image: Found, size: int | None) -> dict[str, object]:
    needed = -(-int(image.document["status"].get("sizeMB", 0)) // _GIB_IN_MIB)
    if size is None and not needed:
        raise Invalid(
            f"image {image.name} is not imported yet, so its size is not known: wait, or say --size"
        )
    return {
        "skuRef": {"resource": "skus/seca.rd500"},
        "sizeGB": size or needed,
        "sourceImageRef": {"resource": f"images/{image.name}"},
    }


def _disks(instance: Doc) -> list[str]:
    spec = instance["spec"]
    volumes = [spec["bootVolume"], *spec.get("dataVolumes", [])]
    return [volume["deviceRef"]["resource"].rpartition("/")[2] for volume in volumes]


def _sizes(session: Session) -> dict[str, str]:
    """What each sku means, for people."""
    skus = session.client.list(facts(Kind.INSTANCE_SKU))
    return {
        each["metadata"]["name"]: f"{each['spec']['vCPU']} vCPU / {each['spec']['ram']} GiB"
        for each in skus
    }


def _size(instance: Doc, sizes: dict[str, str]) -> str:
    name = str(instance["spec"]["skuRef"]["resource"]).rpartition("/")[2]
    return sizes.get(name, name)


def _row(instance: Doc, place: str, sizes: dict[str, str], *, plain: bool) -> tuple[object, ...]:
    name = instance["metadata"]["name"]
    return (
        name if plain else f"{place}/{name}",
        instance["spec"]["zone"],
        instance["status"]["state"],
        instance["status"]["powerState"],
        _size(instance, sizes),
        instance["extensions"].get("fedctl:address", ""),
        units.age(instance["metadata"]["createdAt"]),
    )


def _show(session: Session, found: Found) -> None:
    instance = session.client.get(INSTANCE, found.name, found.workspace)
    try:
        place = session.client.get(PLACEMENT, found.name, found.workspace)
    except Stopped as e:
        if e.exit_code != EXIT[NotFound]:
            raise
        place = {}
    retained = [kept_text(each) for each in field(place, "status", "retained") or []]
    newest = (instance["status"]["conditions"] or [{}])[0]
    shown = {
        "name": f"{found}",
        "site": instance["spec"]["zone"],
        "state": instance["status"]["state"],
        "why": newest.get("message"),
        "power": instance["status"]["powerState"],
        "size": _size(instance, _sizes(session)),
        "address": field(place, "status", "address"),
        "mac": field(place, "status", "mac"),
        "network": instance["extensions"].get("fedctl:network"),
        "disks": ", ".join(_disks(instance)),
        "epoch": field(place, "status", "epoch"),
        "retained": "; ".join(retained),
        "age": units.age(instance["metadata"]["createdAt"]),
    }
    document = instance if not place else {**instance, "placement": place["status"]}
    session.data(document, Facts(shown))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as e:
        raise Invalid(f"{path} cannot be read: {e.strerror}") from e
