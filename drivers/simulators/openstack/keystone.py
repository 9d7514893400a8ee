"""Identity v3: tokens that expire, by password or application credential, and the catalogue."""

import secrets
import time
from typing import Any

from drivers.simulators.openstack.cloud import Cloud
from drivers.simulators.openstack.wire import Call, Refusal, Reply, Routes
from drivers.simulators.openstack.world import Record, stamp

WRONG = "The request you have made requires authentication."
SERVICES = (
    ("identity", "keystone", "/identity"),
    ("compute", "nova", "/compute/v2.1"),
    ("volumev3", "cinder", "/volume/v3"),
    ("image", "glance", "/image"),
    ("network", "neutron", "/network"),
)


class Keystone:
    """The identity service of one cloud with one project, one member and one administrator."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.routes = Routes()
        add = self.routes.add
        add("GET", "/identity", self._versions)
        add("GET", "/identity/v3", self._version)
        add("POST", "/identity/v3/auth/tokens", self._login)
        add("GET", "/identity/v3/auth/tokens", self._validate)
        add("HEAD", "/identity/v3/auth/tokens", self._validate)
        add("DELETE", "/identity/v3/auth/tokens", self._revoke)
        add("GET", "/identity/v3/auth/catalog", self._catalog)
        add("GET", "/identity/v3/auth/projects", self._projects)
        add("GET", "/identity/v3/projects/{ident}", self._project)
        self._seed()

    def _seed(self) -> None:
        world = self._cloud.world
        if world.get("account", "main"):
            return
        project = {
            "id": self._ident(),
            "name": f"project-{self._cloud.name}",
            "domain_id": "default",
        }
        users = {
            name: {
                "id": self._ident(),
                "name": name,
                "password": secrets.token_hex(12),
                "roles": roles,
            }
            for name, roles in (("member", ["member", "reader"]), ("admin", ["admin", "member"]))
        }
        credential = {
            "id": self._ident(),
            "name": "fedctl",
            "secret": secrets.token_urlsafe(32),
            "user": "member",
            "roles": ["member", "reader"],
        }
        main = {"id": "main", "project": project, "users": users, "credential": credential}
        world.put("account", main)

    def _ident(self) -> str:
        return self._cloud.world.new_id().replace("-", "")  # as keystone writes ids

    @property
    def account(self) -> Record:
        account = self._cloud.world.get("account", "main")
        assert account is not None  # noqa: S101  # seeded at the start
        return account

    # what other services ask

    def authenticated(self, call: Call) -> Record:
        """The token that a call shows; a Refusal with 401 when it is none or over."""
        token = self._cloud.world.get("token", call.headers.get("X-Auth-Token") or "")
        if token is None or token["expires"] < time.time():
            raise Refusal(
                401, WRONG, headers={"WWW-Authenticate": f'Keystone uri="{call.base}/identity"'}
            )
        return token

    def expire_all(self) -> None:
        """Let every token be over at once."""
        for token in self._cloud.world.all("token"):
            self._cloud.world.drop("token", token["id"])

    # endpoints

    def _describe(self, call: Call) -> dict[str, Any]:
        return {
            "id": "v3.14",
            "status": "stable",
            "updated": "2020-04-07T00:00:00Z",
            "links": [{"rel": "self", "href": f"{call.base}/identity/v3/"}],
            "media-types": [
                {
                    "base": "application/json",
                    "type": "application/vnd.openstack.identity-v3+json",
                }
            ],
        }

    def _versions(self, call: Call) -> Reply:
        return Reply(
            status=300,
            body={"versions": {"values": [self._describe(call)]}},
            headers={"Location": f"{call.base}/identity/v3/"},
        )

    def _version(self, call: Call) -> Reply:
        return Reply(status=200, body={"version": self._describe(call)})

    def _login(self, call: Call) -> Reply:
        auth = call.json().get("auth", {})
        identity = auth.get("identity", {})
        methods = identity.get("methods", [])
        account = self.account
        scope = auth.get("scope") or {}
        if methods == ["application_credential"]:
            user, credential = self._by_credential(identity), True
        elif methods == ["password"]:
            user, credential = self._by_password(identity), False
        else:
            raise Refusal(401, "Attempted to authenticate with an unsupported method.")
        roles = account["credential"]["roles"] if credential else user["roles"]
        project = None if not credential and not scope else account["project"]
        asked = scope.get("project", {}) if isinstance(scope, dict) else {}
        if asked and project and project["id"] != asked.get("id"):
            by_name = asked.get("name") == project["name"]
            if not by_name:
                raise Refusal(401, WRONG)
        now = time.time()
        token: Record = {
            "id": secrets.token_urlsafe(48),
            "expires": now + self._cloud.knobs.token_seconds,
            "issued": now,
            "user_id": user["id"],
            "user": user["name"],
            "project_id": project["id"] if project else "",
            "roles": roles,
            "methods": methods,
        }
        self._purge(now)
        self._cloud.world.put("token", token)
        headers = {"X-Subject-Token": token["id"], "Vary": "X-Auth-Token"}
        return Reply(status=201, body={"token": self._shown(token, call)}, headers=headers)

    def _by_credential(self, identity: dict[str, Any]) -> Record:
        given = identity.get("application_credential", {})
        own = self.account["credential"]
        named = given.get("id") == own["id"] or given.get("name") == own["name"]
        if not named or not secrets.compare_digest(str(given.get("secret")), own["secret"]):
            raise Refusal(401, WRONG)
        return dict(self.account["users"][own["user"]])

    def _by_password(self, identity: dict[str, Any]) -> Record:
        given = identity.get("password", {}).get("user", {})
        for user in self.account["users"].values():
            same = given.get("id") == user["id"] or given.get("name") == user["name"]
            if same and secrets.compare_digest(str(given.get("password")), user["password"]):
                return dict(user)
        raise Refusal(401, WRONG)

    def _purge(self, now: float) -> None:
        for token in self._cloud.world.all("token"):
            if token["expires"] < now:
                self._cloud.world.drop("token", token["id"])

    def _shown(self, token: Record, call: Call) -> dict[str, Any]:
        domain = {"id": "default", "name": "Default"}
        shown: dict[str, Any] = {
            "methods": token["methods"],
            "user": {
                "id": token["user_id"],
                "name": token["user"],
                "domain": domain,
                "password_expires_at": None,
            },
            "audit_ids": [token["id"][:22]],
            "expires_at": stamp(token["expires"], micro=True) + "Z",
            "issued_at": stamp(token["issued"], micro=True) + "Z",
        }
        if token["project_id"]:
            project = self.account["project"]
            shown["project"] = {"id": project["id"], "name": project["name"], "domain": domain}
            shown["is_domain"] = False
            shown["roles"] = [{"id": f"role-{name}", "name": name} for name in token["roles"]]
            shown["catalog"] = self._services(call)
        if token["methods"] == ["application_credential"]:
            own = self.account["credential"]
            shown["application_credential"] = {
                "id": own["id"],
                "name": own["name"],
                "restricted": True,
            }
        return shown

    def _services(self, call: Call) -> list[dict[str, Any]]:
        return [
            {
                "id": f"service-{kind}",
                "type": kind,
                "name": name,
                "endpoints": [
                    {
                        "id": f"endpoint-{kind}-{interface}",
                        "interface": interface,
                        "region": self._cloud.region,
                        "region_id": self._cloud.region,
                        "url": call.base + path,
                    }
                    for interface in ("public", "internal", "admin")
                ],
            }
            for kind, name, path in SERVICES
        ]

    def _subject(self, call: Call) -> Record:
        self.authenticated(call)
        token = self._cloud.world.get("token", call.headers.get("X-Subject-Token") or "")
        if token is None or token["expires"] < time.time():
            raise Refusal(404, "Failed to validate token")
        return token

    def _validate(self, call: Call) -> Reply:
        token = self._subject(call)
        headers = {"X-Subject-Token": token["id"]}
        return Reply(status=200, body={"token": self._shown(token, call)}, headers=headers)

    def _revoke(self, call: Call) -> Reply:
        self._cloud.world.drop("token", self._subject(call)["id"])
        return Reply(status=204)

    def _catalog(self, call: Call) -> Reply:
        self.authenticated(call)
        return Reply(status=200, body={"catalog": self._services(call), "links": {}})

    def _projects(self, call: Call) -> Reply:
        self.authenticated(call)
        return Reply(status=200, body={"projects": [self._project_shown()], "links": {}})

    def _project(self, call: Call, ident: str) -> Reply:
        self.authenticated(call)
        if ident != self.account["project"]["id"]:
            raise Refusal(404, f"Could not find project: {ident}.")
        return Reply(status=200, body={"project": self._project_shown()})

    def _project_shown(self) -> dict[str, Any]:
        return {
            **self.account["project"],
            "enabled": True,
            "is_domain": False,
            "parent_id": "default",
        }
