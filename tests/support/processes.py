"""Gateways and CAs as real processes, with everything they need made on the spot.

    config = make_setup(tmp_path, vendors={"acme": vendor_pki})  # of tests.support.setups
    with GatewayProcess(config) as gateway:
        openssl_cmp("ir", server=gateway.server, ...)

Every server takes a free port from the kernel at its first start and keeps it over restarts.
"""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from tests.support.commands import Command
from tests.support.log_table import faults
from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import LocalServer

POLL_SECONDS: Final = 0.02


class ServerProcess(LocalServer):
    """One `ra-gateway` that serves, as a process of its own.

    A context manager: started by `with`, killed at the end of the block if it still runs.

    Args:
        config_path: Of its configuration; several processes may share one.
        log_path: Where its output goes, appended over restarts; by default a new file beside the
            configuration.
        user: Whom it runs as, by number, if not the tests' own user.
        clock_path: A file by which its clock is set (`tests.support.shifted_clock`).
    """

    command: ClassVar[tuple[str, ...]]
    table: ClassVar[str]

    def __init__(
        self,
        config_path: Path,
        log_path: Path | None = None,
        *,
        user: int | None = None,
        clock_path: Path | None = None,
    ) -> None:
        self.config_path = config_path
        self.user, self.clock_path = user, clock_path
        self.port = 0
        self._process: Command | None = None
        if log_path is None:
            count = len(list(config_path.parent.glob(f"{self.command[0]}-*.log")))
            log_path = config_path.parent / f"{self.command[0]}-{count + 1}.log"
        self.log_path = log_path
        self.log_path.touch()

    @property
    def url(self) -> str:
        """URL to post to."""
        return f"http://{self.server}/.well-known/cmp"

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has logged so far, oldest first."""
        lines = self.log.rpartition("\n")[0].splitlines()  # the last one may be half written
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def handled(self) -> list[dict[str, Any]]:
        """One entry for each message handled so far, oldest first: "event", "outcome", "fail_info"...

        An answer leaves after its line is written, so that a client that has it finds the line here.
        """
        # The bundled CA in the gateway's process logs its own messages, without an endpoint.
        return [event for event in self.events if "endpoint" in event]

    @property
    def pid(self) -> int:
        """Process ID; it must be running."""
        return self._running.pid

    def start(self) -> None:
        """Start it, and return when it listens; again on its former port after an end.

        Raises:
            AssertionError: It ended or did not listen in time; the text has its log.
        """
        assert self._process is None, "it runs already"
        written_bytes = self.log_path.stat().st_size
        self._process = Command(
            *self.command,
            "--config",
            self._config_to_use(),
            output_path=self.log_path,
            user=self.user,
            clock_path=self.clock_path,
        )
        try:
            self.port = self._await_port(written_bytes)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """End it with SIGTERM, as an operator does, and wait; returns its exit code.

        Raises:
            subprocess.TimeoutExpired: It did not end in time.
        """
        process = self._running
        process.send_signal(signal.SIGTERM)
        exit_code = process.wait()
        self._process = None
        return exit_code

    def hang_up(self) -> None:
        """Have it read its configuration again (SIGHUP)."""
        self._running.send_signal(signal.SIGHUP)

    def await_event(self, name: str) -> dict[str, Any]:
        """Wait for a line of the log, and return it."""
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            for event in self.events:
                if event["event"] == name:
                    return event
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"no line {name}:\n{self.log}")

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing is answered."""
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on."""
        self._running.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does, and wait; nothing if it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it if it runs, and start it again on the same port."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.kill()
        if error is None:
            assert [fault for event in self.events for fault in faults(event)] == []

    @property
    def _running(self) -> Command:
        assert self._process is not None, f"it does not run:\n{self.log}"
        return self._process

    def _config_to_use(self) -> Path:
        if self.port == 0:
            return self.config_path
        # A copy with the port of before, in the same directory for the sake of relative paths.
        text, count = re.subn(
            rf"^(\[{re.escape(self.table)}\](?:\n[^\[\n].*|\n)*?\nlisten_port = )\d+",
            rf"\g<1>{self.port}",
            self.config_path.read_text(),
            flags=re.MULTILINE,
        )
        assert count == 1, f"[{self.table}] of {self.config_path} has no listen_port"
        if "\n[management]" not in text:  # a thousand above a port that happened to be free is not
            text += "\n[management]\nlisten_port = 0\n"
        copy = self.config_path.with_name(f"{self.config_path.stem}-{self.port}.toml")
        copy.write_text(text)
        return copy

    def _await_port(self, written_bytes: int) -> int:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up_at:
            ended = self._running.poll() is not None
            new = _written_since(self.log_path, written_bytes)
            if found := re.search(rb"^listening on \S+:(\d+)\n", new, re.MULTILINE):
                return int(found[1])
            if ended:
                break
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"ra-gateway {' '.join(self.command)} does not listen:\n{self.log}")


class GatewayProcess(ServerProcess):
    """`ra-gateway serve`."""

    command = ("serve",)
    table = "server"


class CAProcess(ServerProcess):
    """`ra-gateway ca serve`: the bundled CA of a configuration, over HTTP."""

    command = ("ca", "serve")
    table = "ca.server"


def _written_since(path: Path, count: int) -> bytes:
    with path.open("rb") as log:
        log.seek(count)
        return log.read()
