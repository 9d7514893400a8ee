"""How the OpenAPI document describes the endpoints, made from the table of kinds."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.schemas import fedctl, seca
from api.schemas.errors import ProblemOut
from api.schemas.kinds import SHAPES, shapes
from api.schemas.wire import Shown
from controlplane.domain.kinds import KindFacts, Scope

Document = dict[str, Any]
_REF = "#/components/schemas/{model}"
_SPARE = (
    fedctl.CredentialsIn,
    fedctl.AdoptionIn,
    fedctl.LoginIn,
    fedctl.TokenIn,
    fedctl.UserIn,
)
_SPARE_OUT: tuple[type[Shown], ...] = (fedctl.TokenOut, fedctl.TokenList, fedctl.Me, seca.Wellknown)
_ERRORS = ("400", "401", "403", "404", "409", "412", "500")


def content(model: str) -> Document:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model)}}}


def answers(code: str, text: str, model: str | None = None) -> Document:
    """The good answer, and the problem document for every other."""
    good: Document = {"description": text}
    if model is not None:
        good["content"] = content(model)
    bad = {
        "description": "A problem.",
        "content": {"application/problem+json": content("ProblemOut")["application/json"]},
    }
    return {code: good, **dict.fromkeys(_ERRORS, bad)}


def body(model: str) -> Document:
    return {"required": True, "content": content(model)}


def _parameters(entry: KindFacts) -> list[Document]:
    """Those of the path before the name."""
    scopes = {
        Scope.GLOBAL: (),
        Scope.TENANT: ("tenant",),
        Scope.WORKSPACE: ("tenant", "workspace"),
    }
    return [_in("path", name) for name in scopes[entry.scope]]


def _in(place: str, name: str, type_: str = "string") -> Document:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": {"type": type_},
    }


_PRECONDITION = _in("header", "if-unmodified-since", "integer")


def _id(entry: KindFacts, verb: str) -> str:
    scope = "" if entry.scope is Scope.WORKSPACE or _only(entry) else f"{entry.scope}-"
    return f"{verb}-{scope}{entry.kind}"


def _only(entry: KindFacts) -> bool:
    return entry.kind != "operation"


def describe_list(entry: KindFacts) -> Document:
    query = [_in("query", "labels"), _in("query", "limit", "integer"), _in("query", "skipToken")]
    return {
        "operationId": _id(entry, "list"),
        "parameters": [*_parameters(entry), *query],
        "responses": answers("200", "A page.", shapes(entry).listing.__name__),
        "summary": f"List what is of kind {entry.kind}",
    }


def describe_item(entry: KindFacts, verb: str) -> Document:
    shape = shapes(entry)
    document: Document = {
        "operationId": _id(entry, verb),
        "parameters": _parameters(entry),
        "summary": f"{verb.capitalize()} one of kind {entry.kind}",
    }
    if verb == "get":
        return document | {"responses": answers("200", "As it is.", shape.answer.__name__)}
    document["parameters"] = [*document["parameters"], _PRECONDITION]
    if verb == "delete":
        return document | {"responses": answers("202", "Deletion was accepted.")}
    good = answers("200", "It was there.", shape.answer.__name__)
    made = answers("201", "It was made.", shape.answer.__name__)
    return document | {
        "requestBody": body(shape.request.__name__),
        "responses": good | made,
    }


def describe_action(entry: KindFacts, action: str) -> Document:
    query = [_in("query", "manner")] if action in {"stop", "restart"} else []
    return {
        "operationId": _id(entry, action),
        "parameters": [*_parameters(entry), *query, _PRECONDITION],
        "responses": answers("202", "It was accepted; Fedctl-Operation names the work."),
        "summary": f"Ask a thing of kind {entry.kind} to {action}",
    }


def install(app: FastAPI, *, version: str) -> None:
    """The document with the schemas of all kinds, computed once."""
    cache: Document = {}

    def openapi() -> Document:
        if not cache:
            document = get_openapi(title="fedctl", version=version, routes=app.routes)
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(_schemas())
            components["securitySchemes"] = {"bearerAuth": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"bearerAuth": []}]
            _without_defaults(document)
            cache.update(document)
        return cache

    app.openapi = openapi  # type: ignore[method-assign]


def _schemas() -> Document:
    requests: list[Any] = [shape.request for shape in SHAPES.values()]
    shown: list[Any] = [model for s in SHAPES.values() for model in (s.answer, s.listing)]
    inputs: list[Any] = [(model, "validation") for model in (*requests, *_SPARE)]
    outputs: list[Any] = [(model, "serialization") for model in (*shown, *_SPARE_OUT, ProblemOut)]
    _, document = models_json_schema([*inputs, *outputs], ref_template=_REF)
    return dict(document["$defs"])


def _without_defaults(document: Document) -> None:
    """FastAPI adds answers that no endpoint of ours gives."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
