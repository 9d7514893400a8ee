"""The OpenAPI document is what we say it is, and answers keep SECA's own schemas."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from jsonschema import Draft4Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4

from controlplane.domain.resource import State
from tests.api.world import (
    AUTHORIZATION,
    COMPUTE,
    REGIONS,
    STORAGE,
    WORKSPACES,
    World,
)

GOLDEN = Path(__file__).parent / "openapi.json"
SECA = os.environ.get("SECA_OPENAPI")


def test_the_document_is_the_golden_one(w: World):
    """After a wanted change: REWRITE_GOLDEN=1 pytest tests/api/test_documents.py."""
    document = w.http.get("/openapi.json").json()
    document["info"]["version"] = "0"
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if os.environ.get("REWRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_every_reference_in_the_document_leads_somewhere(w: World):
    document = w.http.get("/openapi.json").json()
    schemas = set(document["components"]["schemas"])
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= schemas


def test_every_operation_has_a_name_of_its_own(w: World):
    document = w.http.get("/openapi.json").json()
    names = [o["operationId"] for p in document["paths"].values() for o in p.values()]
    assert len(names) == len(set(names))


class Contract:
    """SECA's schemas, by API file."""

    def __init__(self, folder: Path) -> None:
        self._documents = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}

    def check(self, api: str, schema: str, body: object) -> None:
        document = self._documents[api]
        registry = Registry().with_resource(
            "urn:doc", Resource.from_contents(document, default_specification=DRAFT4)
        )
        reference = {"$ref": f"urn:doc#/components/schemas/{schema}"}
        validator = Draft4Validator(reference, registry=registry, format_checker=FormatChecker())
        problems = [f"{list(e.absolute_path)}: {e.message}" for e in validator.iter_errors(body)]
        assert not problems, f"{schema}: {problems}"


@pytest.fixture(scope="module")
def contract() -> Contract:
    if not SECA:
        pytest.skip("SECA_OPENAPI does not name the folder of SECA's OpenAPI files")
    return Contract(Path(SECA))


def test_answers_keep_the_schemas_of_seca(w: World, contract: Contract):
    site = w.site()
    shop = w.workspace()
    web = w.running_instance(shop, site, power="on")
    contract.check("region.v1", "RegionIterator", w.http.get(REGIONS).json())
    contract.check("region.v1", "Region", w.http.get(f"{REGIONS}/eu-fr").json())
    contract.check("wellknown.v1", "Wellknown", w.http.get("/.wellknown/secapi").json())
    for api, base, place, one, many in (
        ("authorization.v1", AUTHORIZATION, "roles", "Role", "RoleIterator"),
        ("workspace.v1", WORKSPACES, "workspaces", "Workspace", "WorkspaceIterator"),
        ("compute.v1", COMPUTE, "skus", "InstanceSku", "SkuIterator"),
        ("storage.v1", STORAGE, "skus", "StorageSku", "SkuIterator"),
    ):
        listed = w.http.get(w.in_tenant(base, place)).json()
        contract.check(api, many, listed)
        for item in listed["items"]:
            contract.check(api, one, item)
    assignments = w.http.get(w.in_tenant(AUTHORIZATION, "role-assignments")).json()
    contract.check("authorization.v1", "RoleAssignmentIterator", assignments)
    for api, base, place, one, many in (
        ("compute.v1", COMPUTE, "instances", "Instance", "InstanceIterator"),
        ("storage.v1", STORAGE, "block-storages", "BlockStorage", "BlockStorageIterator"),
    ):
        listed = w.http.get(w.in_workspace(base, shop, place)).json()
        contract.check(api, many, listed)
        for item in listed["items"]:
            contract.check(api, one, item)
    path = w.in_workspace(COMPUTE, shop, f"instances/{web}")
    w.http.delete(path)
    contract.check("compute.v1", "Instance", w.http.get(path).json())


def test_errors_and_every_state_keep_the_schemas_of_seca(w: World, contract: Contract):
    site = w.site()
    shop = w.workspace()
    made = w.put(
        w.in_workspace(COMPUTE, shop, "instances/web"), w.instance_spec(site, w.volume(shop))
    )
    contract.check("compute.v1", "Instance", made.json())
    subject = w.operation(made).subject
    for state in (State.CREATING, State.ACTIVE, State.UPDATING, State.ERROR, State.DELETING):
        with w.store.begin() as tx:
            tx.resources.set_state(
                subject,
                state,
                now=datetime.now(UTC),
                type="move",
                reason="rolled-back: 3",
                message="x",
            )
        shown = w.http.get(w.in_workspace(COMPUTE, shop, "instances/web")).json()
        contract.check("compute.v1", "Instance", shown)
    for answer in (
        w.http.get(w.in_workspace(COMPUTE, shop, "instances/none")),
        w.put(w.in_workspace(COMPUTE, shop, "instances/bad"), {}),
        w.http.post(w.in_workspace(COMPUTE, shop, "instances/web/start")),
        httpx.get(w.url + REGIONS),
    ):
        assert answer.status_code >= 400
        contract.check("compute.v1", "Error", answer.json())
