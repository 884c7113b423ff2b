"""docs/versions.md: what is said to be supported is what is tested, and what the package, CI and the images say."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest

from tests.support.haproxy import haproxy_path
from tests.support.openssl import openssl_path
from tests.support.postgres_server import postgres_binary
from tests.support.prometheus import prometheus_program
from tests.support.redis_server import redis_path

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs/versions.md").read_text()
CI: Final = (ROOT / ".github/workflows/ci.yml").read_text()
ROWS: Final = {
    cells[0]: cells[1:]
    for line in PAGE.splitlines()
    if line.startswith("| ") and len(cells := [cell.strip() for cell in line.split("|")[1:-1]]) == 4
}


def numbers(text: str) -> list[tuple[int, ...]]:
    """Return the versions in a text."""
    return [tuple(map(int, found.split("."))) for found in re.findall(r"\d+(?:\.\d+)*", text)]


def test_python_is_the_same_everywhere() -> None:
    """On the page, in pyproject.toml, in CI's matrix, in the image, where documents and Makefile name it."""
    least, tested, besides = ROWS["Python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == f">={least}"
    classifiers = " ".join(project["project"]["classifiers"])
    versions = re.findall(r"Python :: (\d\.\d+)", classifiers)
    assert versions == re.findall(r"\d\.\d+", tested)
    (matrix,) = re.findall(r"python: \[(.*)\]", CI)
    assert versions == re.findall(r"\d\.\d+", matrix)
    assert least == versions[0]
    (image,) = re.findall(r"ARG PYTHON=(.*)", (ROOT / "deploy/Dockerfile").read_text())
    assert besides.startswith(f"the image has {image}.")
    assert image in versions
    deployment = (ROOT / "docs/deployment.md").read_text()
    assert f"They hold for Python {versions[0]} to {versions[-1]}." in deployment
    assert project["tool"]["mypy"]["python_version"] == least
    major, minor = least.split(".")
    assert f"sys.version_info < ({major}, {minor})" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(
    "row, command",
    [
        ("Redis", (redis_path(), "--version")),
        ("PostgreSQL", (postgres_binary("postgres"), "--version")),
        ("HAProxy", (haproxy_path(), "-v")),
        ("OpenSSL as base station", (openssl_path(), "version")),
        ("Prometheus", (prometheus_program("prometheus"), "--version")),
    ],
)
def test_what_the_tests_run_with_is_not_older(row: str, command: tuple[str, ...]) -> None:
    """What is there is one of those that the page says, or newer than the oldest."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (version, *_) = numbers(done.stdout.replace("v=", " "))
    least, tested, _ = ROWS[row]
    assert version >= numbers(least)[0]
    assert numbers(least)[0] <= min(numbers(tested))


def test_pages_name_the_same_versions() -> None:
    """The oldest Redis and Kubernetes, and the releases of CAs, are said elsewhere too."""
    assert f"One Redis {ROWS['Redis'][0]} or later" in (ROOT / "docs/deployment.md").read_text()
    chart = (ROOT / "deploy/helm/ra-gateway/Chart.yaml").read_text()
    assert f'kubeVersion: ">={ROWS["Kubernetes"][0]}.0-0"' in chart
    compose = (ROOT / "deploy/compose/compose.yaml").read_text()
    for row, image in (
        ("PostgreSQL", "postgres"),
        ("HAProxy", "haproxy"),
        ("Prometheus", "prometheus"),
    ):
        (version,) = re.findall(rf"image: (?:\w+/)?{image}:v?(\d+(?:\.\d+)?)", compose)
        assert f"the compose file has {version}" in ROWS[row][2], row
    assert "Community Edition 8.2" in (ROOT / "docs/ca-ejbca.md").read_text()
    assert "(0.6)" in (ROOT / "docs/ca-trustpoint.md").read_text()


def test_ci_installs_what_make_may_not() -> None:
    """There make is not root; Python's venv and systemd are there."""
    makefile = (ROOT / "Makefile").read_text()
    wanted = set(re.findall(r"call apt,([\w-]+)", makefile)) - {"python3-venv", "systemd"}
    checks, coverage = (set(line.split()) for line in re.findall(r"apt-get install (.*)", CI))
    assert wanted - checks == set()
    assert {"openssl", "postgresql", "slapd", "softhsm2"} - coverage == set()
