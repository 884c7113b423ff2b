"""A real HAProxy in front of gateways of this machine, by the sample in deploy/."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import free_port

SAMPLE: Final = Path(__file__).parents[2] / "deploy/haproxy.cfg"
_MISSING: Final = "haproxy is missing: `apt-get install haproxy` (Debian), or `make haproxy`."


def haproxy_path() -> str:
    """Return the program.

    Raises:
        RuntimeError: The machine has none.
    """
    program = shutil.which(
        "haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    )
    if program is None:
        raise RuntimeError(_MISSING)
    return program


@contextmanager
def balanced(directory: Path, gateways: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Run HAProxy as the sample says; yields its port.

    Args:
        directory: Where its configuration and its log go.
        gateways: The port of each, and that of its management listener.
    """
    text, count = re.subn(r"(?m)^( *bind) :8080$", r"\1 {bind}", SAMPLE.read_text())
    assert count == 1
    found = []

    def servers(lines: re.Match[str]) -> str:
        found.append(lines[0].count("\n"))
        return "".join(
            f"    server gateway-{number} 127.0.0.1:{service}"
            + (f" port {management}\n" if " port " in lines[0] else "\n")
            for number, (service, management) in enumerate(gateways, 1)
        )

    text = re.sub(r"(?m)(^ *server gateway-\d .*\n)+", servers, text)
    assert found == [2, 2]
    with running(directory, text) as port:
        yield port


@contextmanager
def running(directory: Path, text: str) -> Iterator[int]:
    """Run HAProxy; yields its port.

    Args:
        directory: Where its configuration and its log go.
        text: Its configuration, in which {bind} is where it listens.
    """
    port = free_port()
    config = directory / "haproxy.cfg"
    config.write_text(text.replace("{bind}", f"127.0.0.1:{port}"))
    log = directory / "haproxy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [haproxy_path(), "-db", "-f", str(config)], stdout=output, stderr=output
        )
    try:
        _wait(process, port, log)
        yield port
    finally:
        process.terminate()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < give_up_at:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.02)
    raise RuntimeError("haproxy did not start:\n" + log.read_text(errors="replace"))
