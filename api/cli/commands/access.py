"""fedctl login, context, token: who one is, and at which control plane."""

import sys
from dataclasses import asdict
from typing import Annotated
from urllib.parse import urlsplit

import typer

from api.cli import units
from api.cli.completion import contexts
from api.cli.contexts import Context
from api.cli.session import Form, Output, Rows, Session, command
from controlplane.domain.errors import Invalid

IDENTITY = "/providers/fedctl.identity/v1"

context_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
token_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def login(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Argument(help="Where fedctl runs.")] = None,
    user: Annotated[str | None, typer.Option("-u", "--user", help="Your name there.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="How to call the context.")] = None,
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from stdin.")
    ] = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read an API token from stdin instead.")
    ] = False,
) -> None:
    """Logs in; the token goes to the context file."""
    with Session(ctx) as session:
        where = (url or session.context.url).rstrip("/")
        if urlsplit(where).scheme not in {"http", "https"}:
            raise Invalid(f"{where!r} is not a URL: write http://host:port")
        token = (
            sys.stdin.readline().strip()
            if token_stdin
            else _by_password(session, where, user, from_stdin=password_stdin)
        )
        client = session.with_context(Context(url=where, token=token))
        me = client.document("GET", f"{IDENTITY}/me")
        context = Context(
            url=where, token=token, tenant=me["tenant"], user=me["subject"], workspace=""
        )
        called = name or urlsplit(where).hostname or "default"
        session.contexts.save(called, context)
        session.say(f"Logged in to {where} as {me['subject']} of tenant {me['tenant']}.")
        session.say(f"  context {called} in {session.contexts.path}")
        session.say("  next    fedctl site list, fedctl workspace create shop")


def _by_password(session: Session, url: str, user: str | None, *, from_stdin: bool) -> str:
    who = user or session.context.user
    if not who:
        raise Invalid("who logs in? say --user NAME")
    if from_stdin:
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = typer.prompt(f"Password of {who}", hide_input=True, err=True)
    client = session.with_context(Context(url=url))
    body = {"user": who, "password": password, "label": "fedctl login"}
    return str(client.document("POST", f"{IDENTITY}/login", json=body)["token"])


@command(
    context_app, "list", "fedctl context list", "fedctl context list -o json", text="Lists them."
)
def list_contexts(ctx: typer.Context, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        contexts = session.contexts
        rows = [
            ("*" if name == contexts.current else "", name, c.url, c.user, c.tenant, c.workspace)
            for name, c in sorted(contexts.all.items())
        ]
        shown = [_public(name, c) for name, c in sorted(contexts.all.items())]
        columns = ("", "NAME", "URL", "USER", "TENANT", "WORKSPACE")
        session.data(shown, Rows(columns, rows))


@command(
    context_app,
    "use",
    "fedctl context use lab",
    "fedctl context use lab --workspace shop",
    text="Chooses one.",
)
def use_context(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The context.", autocompletion=contexts)],
    workspace: Annotated[
        str | None, typer.Option("-w", "--workspace", help="Where names are looked for.")
    ] = None,
) -> None:
    with Session(ctx) as session:
        context = session.contexts.use(name, workspace=workspace)
        place = f", workspace {context.workspace}" if context.workspace else ""
        session.say(f"Using {name}: {context.url} as {context.user}{place}.")


@command(
    context_app, "show", "fedctl context show", "fedctl context show -o yaml", text="Shows it."
)
def show_context(ctx: typer.Context, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        name = session.contexts.current
        context = session.context
        columns = ("NAME", "URL", "USER", "TENANT", "WORKSPACE")
        row = (name, context.url, context.user, context.tenant, context.workspace)
        session.data(_public(name, context), Rows(columns, [row]))


def _public(name: str, context: Context) -> dict[str, object]:
    """A context without its token."""
    return {"name": name, **{k: v for k, v in asdict(context).items() if k != "token"}}


@command(token_app, "list", "fedctl token list", "fedctl token list -o json", text="Your own.")
def list_tokens(ctx: typer.Context, output: Output = Form.TABLE) -> None:
    with Session(ctx, form=output) as session:
        items = session.client.document("GET", f"{IDENTITY}/tokens")["items"]
        rows = [
            (t["id"], t["label"], units.age(t["createdAt"]), _end(t.get("expiresAt")))
            for t in items
        ]
        session.data(items, Rows(("ID", "LABEL", "AGE", "ENDS"), rows))


@command(
    token_app,
    "create",
    "fedctl token create terraform",
    "fedctl token create ci --lasts 7d",
    text="Makes one; it is shown this once.",
)
def create_token(
    ctx: typer.Context,
    label: Annotated[str, typer.Argument(help="What it is for.")],
    lasts: Annotated[str, typer.Option(help="How long it is good: 12h, 7d.")] = "30d",
    output: Output = Form.TABLE,
) -> None:
    with Session(ctx, form=output) as session:
        body = {"label": label, "seconds": seconds(lasts, "--lasts")}
        made = session.client.document("POST", f"{IDENTITY}/tokens", json=body)
        session.data(made, Rows(("TOKEN",), [(made["token"],)]))


@command(
    token_app,
    "revoke",
    "fedctl token revoke ID",
    "fedctl token list",
    text="It opens nothing any more.",
)
def revoke_token(ctx: typer.Context, token: Annotated[str, typer.Argument(help="Its id.")]) -> None:
    with Session(ctx) as session:
        session.client.send("DELETE", f"{IDENTITY}/tokens/{token}")
        session.say(f"Revoked {token}.")


def seconds(text: str, option: str) -> int:
    """A span of time as a person writes it."""
    try:
        return units.span(text)
    except ValueError as e:
        raise Invalid(f"{option} is {text!r}: write 90s, 3m, 2h or 7d") from e


def rate(text: str, option: str) -> int:
    """Bytes a second as a person writes them."""
    try:
        return units.rate(text)
    except ValueError as e:
        raise Invalid(f"{option} is {text!r}: write 50MiB/s or bytes a second") from e


def _end(text: str | None) -> str:
    return "never" if text is None else units.day(text)
