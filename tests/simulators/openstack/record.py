"""Record the story on a real OpenStack: `OPENSTACK_LAB=http://...:15000/v3 python -m tests.simulators.openstack.record`.

Accounts come from OPENSTACK_LAB_ADMIN and OPENSTACK_LAB_DEMO as user:password:project; the defaults are the lab's.
"""

import json
import os
from pathlib import Path

from tests.simulators.openstack.story import Access, normalised, tell

FOLDER = Path(__file__).parent / "transcripts"
GROUPS = ("login", "compute", "server", "volume", "snapshot", "image", "import", "network", "port")


def access() -> Access:
    admin = os.environ.get("OPENSTACK_LAB_ADMIN", "admin:admin:admin").split(":")
    demo = os.environ.get("OPENSTACK_LAB_DEMO", "demo:demo:demo").split(":")
    return Access(
        url=os.environ["OPENSTACK_LAB"],
        user=demo[0],
        password=demo[1],
        project=demo[2],
        admin_user=admin[0],
        admin_password=admin[1],
        admin_project=admin[2],
        pull_port=18080,
    )


def main() -> None:
    exchanges = normalised(tell(access()), {})
    files: dict[str, dict[str, object]] = {}
    for name, exchange in exchanges.items():
        service = exchange.get("request", {}).get("service", "identity")
        files.setdefault(service, {})[name] = exchange
    FOLDER.mkdir(exist_ok=True)
    for service, said in files.items():
        text = json.dumps(said, indent=1, sort_keys=True) + "\n"
        (FOLDER / f"{service}.json").write_text(text)


if __name__ == "__main__":
    main()
