"""fedctl orphans: what sweeps found unaccounted for; taken under record, or released."""

from typing import Annotated

import typer

from api.cli import units
from api.cli.client import Doc, started
from api.cli.commands.sites import OneSite, Site
from api.cli.names import find
from api.cli.session import Form, Output, Rows, Session, Yes, command
from api.cli.watch import check, follow
from controlplane.domain.errors import Conflict, NotFound
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_BASE = "/providers/fedctl.federation/v1"
Object = Annotated[str, typer.Argument(help="Its ref at the site, or its artefact's id.")]


@command(
    app,
    "list",
    "fedctl orphans list",
    "fedctl orphans list par-pve -o json",
    text="Lists what the last sweep of each site found unaccounted for.",
)
def list_orphans(
    ctx: typer.Context,
    site: OneSite = None,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        wanted = None if site is None else find(session, Kind.SITE, site).name
        items = _reported(session, wanted)
        rows = [
            (
                each["site"],
                each["kind"],
                each["ref"],
                _instance(each),
                str(each["epoch"]),
                units.local(each["firstSeen"]),
                units.local(each["lastSeen"]),
                each["artefact"],
            )
            for each in items
        ]
        columns = (
            "SITE",
            "KIND",
            "REF",
            "INSTANCE",
            "EPOCH",
            "FIRST SEEN",
            "LAST SEEN",
            "ARTEFACT",
        )
        session.data(items, Rows(columns, rows))


@command(
    app,
    "adopt",
    "fedctl orphans adopt par-pve 107",
    "fedctl orphans adopt par-pve local-zfs:vm-107-disk-0",
    text="Takes one under record, as retained by the instance that its tag names.",
)
def adopt(ctx: typer.Context, site: Site, what: Object) -> None:
    with Session(ctx) as session:
        orphan = _one(session, site, what)
        session.client.send("POST", f"{_path(orphan)}/adopt")
        session.say(
            f"{_named(orphan)} is retained by {_instance(orphan)} now: it goes when that is deleted"
            " or its moves are finalized."
        )


@command(
    app,
    "release",
    "fedctl orphans release par-pve 107",
    "fedctl orphans release par-pve local-zfs:vm-107-disk-0 --yes",
    text="Deletes one at its site: shows it, asks, looks again, deletes.",
)
def release(ctx: typer.Context, site: Site, what: Object, *, yes: Yes = False) -> None:
    with Session(ctx) as session:
        orphan = _one(session, site, what)
        session.say(f"Release {_named(orphan)}")
        session.say(f"instance   {_instance(orphan)}, epoch {orphan['epoch']}")
        session.say(f"made by    operation {orphan['operation']}")
        first, last = units.local(orphan["firstSeen"]), units.local(orphan["lastSeen"])
        session.say(f"seen       first {first}, last {last}")
        question = "Delete it and all data in it at the site? There is no way back."
        if session.agreed(question, yes=yes):
            path = started(session.client.send("POST", f"{_path(orphan)}/release"))
            operation = follow(session, path, f"Releasing {_named(orphan)}")
            check(operation, what=f"{_named(orphan)} was not released")
            session.say(f"Released {_named(orphan)}: it is gone.")


def _reported(session: Session, site: str | None) -> list[Doc]:
    items: list[Doc] = session.client.document("GET", f"{_BASE}/orphans")["items"]
    return [each for each in items if site is None or each["site"] == site]


def _one(session: Session, site: str, what: str) -> Doc:
    name = find(session, Kind.SITE, site).name
    found = [each for each in _reported(session, name) if what in {each["ref"], each["artefact"]}]
    if not found:
        raise NotFound(
            f"the last sweep of {name} reported no {what}: sweep again (fedctl sweep {name})"
            f" and look (fedctl orphans list {name})"
        )
    if len(found) > 1:
        raise Conflict(f"{len(found)} orphans at {name} are called {what}: say the artefact's id")
    return found[0]


def _path(orphan: Doc) -> str:
    return f"{_BASE}/sites/{orphan['site']}/orphans/{orphan['artefact']}"


def _named(orphan: Doc) -> str:
    return f"{orphan['kind']} {orphan['ref']} at {orphan['site']}"


def _instance(orphan: Doc) -> str:
    return orphan["instanceName"] or f"{orphan['instance']} (not known here)"
