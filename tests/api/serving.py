"""A gateway that runs: in a thread of its own, on a free port of loopback."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from api.gateway.app import gateway, listening, server


@contextmanager
def serving(
    *, certificate: Path | None = None, key: Path | None = None, proxies: tuple[str, ...] = (),
    **given: Any,
) -> Iterator[str]:  # fmt: skip
    """The URL of a gateway that was `given` its find, open_disk and so on."""
    port = listening("127.0.0.1", 0)
    running = server(
        gateway(**given), host="127.0.0.1", port=0, certificate=certificate, key=key,
        proxies=proxies,
    )  # fmt: skip
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(sockets=[port])))
    thread.start()
    scheme = "https" if certificate else "http"
    url = f"{scheme}://127.0.0.1:{port.getsockname()[1]}"
    try:
        assert httpx.get(f"{url}/healthz", timeout=10, verify=not certificate).text == "ok\n"
        yield url
    finally:
        running.should_exit = True
        thread.join(10)
        port.close()
        assert not thread.is_alive()
