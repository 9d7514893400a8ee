"""fedctl image: disk images to make instances from."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli import units
from api.cli.client import Doc
from api.cli.commands.sites import NoWait
from api.cli.completion import offering
from api.cli.names import find
from api.cli.session import Facts, Form, Output, Rows, Session, Yes, command
from api.cli.uploading import UPLOAD, upload
from api.cli.watch import check, finish, follow
from controlplane.domain.kinds import facts
from controlplane.domain.resource import Kind

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
IMAGE = facts(Kind.IMAGE)
_MIB = 1024 * 1024


@command(
    app,
    "upload",
    "fedctl image upload debian-13.qcow2 --name debian-13",
    "fedctl image upload disk.raw --name shop-disk --format raw",
    text="Sends a disk image; said again it goes on where it broke off.",
)
def upload_image(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A raw or qcow2 file.")],
    *,
    name: Annotated[str | None, typer.Option("--name", help="What to call the image.")] = None,
    image_format: Annotated[str, typer.Option("--format", help="raw, qcow2 or auto.")] = "auto",
    arch: Annotated[str, typer.Option(help="amd64 or arm64.")] = "amd64",
    boot: Annotated[str, typer.Option(help="BIOS or UEFI.")] = "BIOS",
    no_wait: NoWait = False,
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        called = name or file.stem.lower()
        spec = {"image": called, "format": image_format, "cpuArchitecture": arch, "boot": boot}
        path = upload(session, called, file, spec)
        if path and not no_wait:
            check(
                follow(session, path, f"Importing {called}"), what=f"Image {called} is not usable"
            )
            session.client.send("DELETE", session.client.path(UPLOAD, called))
        image = session.client.get(IMAGE, called)
        session.data(image, Facts(_facts(image)))
        session.say(f"next    fedctl instance create web-1 --image {called} --site SITE")


@command(app, "list", "fedctl image list", "fedctl image list -o json", text="Lists images.")
def list_images(ctx: typer.Context, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        items = session.client.list(IMAGE)
        rows = [
            (
                each["metadata"]["name"],
                each["status"]["state"],
                _size(each),
                each["spec"]["cpuArchitecture"],
                each["spec"].get("boot", "UEFI"),
                units.age(each["metadata"]["createdAt"]),
            )
            for each in items
        ]
        session.data(items, Rows(("NAME", "STATE", "SIZE", "ARCH", "BOOT", "AGE"), rows))


@command(app, "show", "fedctl image show debian-13", "fedctl image show deb -o yaml", text="One.")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The image.", autocompletion=offering(Kind.IMAGE))],
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        image = find(session, Kind.IMAGE, name).document
        session.data(image, Facts(_facts(image)))


@command(
    app,
    "delete",
    "fedctl image delete debian-13",
    "fedctl image delete debian-13 --yes",
    text="Deletes one; what was made from it stays.",
)
def delete(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The image.", autocompletion=offering(Kind.IMAGE))],
    *,
    yes: Yes = False,
    no_wait: NoWait = False,
) -> None:
    with Session(ctx) as session:
        found = find(session, Kind.IMAGE, name)
        if not session.agreed(f"Delete image {found.name}?", yes=yes):
            return
        answer = session.client.send("DELETE", session.client.path(IMAGE, found.name))
        finish(session, answer, f"Deleting {found.name}", wait=not no_wait)


def _size(image: Doc) -> str:
    return units.size(image["status"]["sizeMB"] * _MIB) if image["status"].get("sizeMB") else ""


def _facts(image: Doc) -> dict[str, object]:
    newest = (image["status"]["conditions"] or [{}])[0]
    return {
        "name": image["metadata"]["name"],
        "state": image["status"]["state"],
        "why": newest.get("message"),
        "size": _size(image),
        "arch": image["spec"]["cpuArchitecture"],
        "boot": image["spec"].get("boot", "UEFI"),
    }
