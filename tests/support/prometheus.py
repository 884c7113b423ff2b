"""Prometheus and its promtool, from Debian's package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from tests.support.patience import PATIENCE_SECONDS
from tests.support.ports import free_port

_MISSING = "{} is missing: `apt-get install prometheus` (Debian), or `make prometheus`."


def prometheus_program(name: str) -> str:
    """Return the path of a program of Debian's package.

    Raises:
        RuntimeError: It is missing; the text says how to install it.
    """
    program = shutil.which(name)
    if program is None:
        raise RuntimeError(_MISSING.format(name))
    return program


def promtool(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Run promtool and return what it said.

    Raises:
        AssertionError: It found something wrong; the text says what.
    """
    done = subprocess.run(
        [prometheus_program("promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    """A server that scrapes some targets every second.

    Args:
        targets: Jobs and their targets (`host:port`).

    Raises:
        RuntimeError: The machine has none, or it did not start; the text says why.
    """

    def __init__(self, directory: Path, targets: Mapping[str, Sequence[str]]) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        config = directory / "prometheus.json"
        jobs = [
            {"job_name": job, "static_configs": [{"targets": list(hosts)}]}
            for job, hosts in targets.items()
        ]
        # JSON is YAML.
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        self._log = directory / "prometheus.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    prometheus_program("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
            )
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError("prometheus did not start:\n" + self._log.read_text())
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/-/ready", timeout=5) as answer:  # noqa: S310  # loopback
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return what an expression is at this moment: labels (`metric`) and `value`."""
        url = f"{self.url}/api/v1/query?{urlencode({'query': expression})}"
        with urlopen(url, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310  # loopback
            told = json.load(answer)
        found: list[dict[str, Any]] = told["data"]["result"]
        return found

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@contextmanager
def scraping(targets: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """A Prometheus that scrapes some targets."""
    with tempfile.TemporaryDirectory(prefix="ra-gateway-prometheus-") as directory:
        server = Prometheus(Path(directory), targets)
        try:
            yield server
        finally:
            server.stop()
