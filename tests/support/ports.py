"""Ports of this machine."""

from __future__ import annotations

import socket
from pathlib import Path


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class LocalServer:
    """A program that listens on a port of this machine and writes a log."""

    port: int
    log_path: Path

    @property
    def server(self) -> str:
        """ "host:port" to connect to, as `openssl cmp -server` wants it."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(errors="replace")
