"""`ra-gateway` as processes of their own that begin in milliseconds.

Importing the program takes longer than most of what a test asks of it. So one process of each test run (the *fork
server* of `multiprocessing`) has imported it, asked the linter about the profiles of a CA (`tests.support.preloaded`)
and opened nothing, and every command is a child of that: with a process ID, an environment, files and an end of its
own, as if it had been typed. `test_demo` and `test_extras` type it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ra_gateway.cli.main import main as ra_gateway
from tests.support import linting, shifted_clock
from tests.support.patience import PATIENCE_SECONDS
from tests.support.users import become

_FORKING: Final = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["tests.support.preloaded"])


class Command:
    """One `ra-gateway` that runs; the interface is `subprocess.Popen`'s, as far as tests need it.

    Args:
        arguments: Behind the program's name.
        output_path: Where standard output goes, appended.
        errors_path: Where standard error goes, appended; with standard output if absent.
        user: Number of the user and the group that it runs as, which only root can say.
        clock_path: A file by which its clock is set (`tests.support.shifted_clock`).
    """

    def __init__(
        self,
        *arguments: str | Path,
        output_path: Path,
        errors_path: Path | None = None,
        user: int | None = None,
        clock_path: Path | None = None,
    ) -> None:
        self._process = _FORKING.Process(
            target=_run,
            args=(
                tuple(map(str, arguments)),
                output_path,
                errors_path,
                dict(os.environ),
                Path.cwd(),
                linting.delivery(),
                user,
                clock_path,
            ),
            daemon=True,  # what a failing test leaves ends with the tests
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Process ID."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, the negative number of the signal that ended it, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout_seconds: float = PATIENCE_SECONDS) -> int:
        """Wait for its end, and return as `poll` does.

        Raises:
            subprocess.TimeoutExpired: It did not end in time.
        """
        self._process.join(timeout_seconds)
        exit_code = self.poll()
        if exit_code is None:
            raise subprocess.TimeoutExpired("ra-gateway", timeout_seconds)
        return exit_code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()


def run_command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends by itself."""
    with tempfile.TemporaryDirectory() as directory:
        output, errors = Path(directory, "output"), Path(directory, "errors")
        command = Command(*arguments, output_path=output, errors_path=errors)
        try:
            exit_code = command.wait()
        finally:
            command.kill()
        return subprocess.CompletedProcess(
            ["ra-gateway", *arguments], exit_code, output.read_text(), errors.read_text()
        )


def _run(
    arguments: tuple[str, ...],
    output_path: Path,
    errors_path: Path | None,
    environment: Mapping[str, str],
    directory: Path,
    delivery: Path | None,
    user: int | None,
    clock_path: Path | None,
) -> None:
    linting.deliver(delivery if user is None else None)  # where no other user can write
    appending = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(output_path, appending, 0o600), 1)
    os.dup2(1 if errors_path is None else os.open(errors_path, appending, 0o600), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    sys.argv = ["ra-gateway", *arguments]
    if user is not None:
        become(user)
    if clock_path is not None:
        shifted_clock.follow(clock_path)
    ra_gateway()
