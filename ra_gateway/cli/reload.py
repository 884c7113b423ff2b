"""`ra-gateway reload`: have a running gateway go over to its configuration as it is now, and say what came of it."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from ra_gateway.cli.output import CONFIG, ConfigOption, fail, say

if TYPE_CHECKING:
    from ra_gateway.config.tables import GatewayConfig

_PATIENCE_SECONDS: Final = 120.0
"""CRLs are fetched and keys in an HSM are tried out before a configuration holds."""

_MAX_STATUS_BYTES: Final = 1_000_000

_LISTENS: Final = "0A"
"""State of a socket, as the kernel's tables have it."""


def reload(config: ConfigOption = CONFIG) -> None:
    """Check the configuration, then have the gateway that runs with it on this machine take it up."""
    from ra_gateway.app.application import Application
    from ra_gateway.app.running import check
    from ra_gateway.config.reading import load

    settings = load(config)
    check(Application, settings)
    url = _status_url(settings)
    before = _status(url)
    pid = before["pid"]
    try:
        # Whoever else listens there is not to name a process that a hangup ends: every Python has this program's file.
        is_ours = os.path.samefile(f"/proc/{pid}/exe", "/proc/self/exe")
        if not is_ours or not _listens(pid, urlsplit(url).port):
            fail([f"{url} names the process {pid}, which is no gateway that listens there."], 1)
        os.kill(pid, signal.SIGHUP)
    except OSError as error:
        fail([f"the process {pid} cannot be told: {error.strerror}. Run this as its user"], 1)
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while (now := _status(url))["reloads"] == before["reloads"] and now["pid"] == pid:
        if time.monotonic() > give_up_at:
            fail([f"the process {pid} has not reloaded yet. Look into its log"], 1)
        time.sleep(0.1)
    last = now["reloads"]["last"]
    if now["pid"] != pid or last["outcome"] != "reloaded":
        problems = last["problems"] if last else ["the process has ended meanwhile"]
        fail([*problems, f"The process {pid} goes on with its old configuration."], 1)
    say(f"Reloaded: the process {pid} goes by configuration {now['configuration']}.")


def _listens(pid: int, port: int | None) -> bool:
    """Tell whether a process listens on a TCP port of this machine.

    Raises:
        OSError: There is no such process, or it is of another user.
    """
    sockets = set()
    for table in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, state, *rest = line.split()
            if state == _LISTENS and int(local.rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{rest[5]}]")
    for item in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(item) in sockets:
                return True
    return False


def _status_url(settings: GatewayConfig) -> str:
    management = settings.management
    port = management.port_beside(settings.server.listen_port)
    if not management.enabled or management.tls is not None or not port:
        fail(
            [
                "the gateway is found by its management listener, which has to be enabled, with a port of its own and "
                "without TLS. Use `systemctl reload`, or send SIGHUP to the process"
            ],
            1,
        )
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not bound
    host = anywhere.get(management.listen_host, management.listen_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/status"


def _status(url: str) -> dict[str, Any]:
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(url, timeout=10.0) as answer:
            found: dict[str, Any] = json.loads(answer.read(_MAX_STATUS_BYTES))
            if type(found["pid"]) is not int or found["pid"] < 1 or "reloads" not in found:
                raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        fail([f"no gateway answers at {url}. Start it, or look at [management]"], 1)
    return found
