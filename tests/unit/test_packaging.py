"""What is installed from the built wheel: the package, its type marker, units, examples and documents; nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the backend that pyproject.toml names, unpacked as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("ra_gateway-*-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def wheel(unpacked: Path) -> set[str]:
    """Names of the files in the wheel."""
    return {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}


def test_the_wheel_is_typed(wheel: set[str]) -> None:
    """PEP 561: without the marker, type checkers ignore the annotations of an installed package."""
    assert "ra_gateway/py.typed" in wheel


def test_the_wheel_has_the_whole_package(wheel: set[str]) -> None:
    """Every module and data file, migrations included, and the licence; no tests."""
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ra_gateway").rglob("*.*")
        if path.suffix in (".py", ".toml")
    }
    assert "ra_gateway/app/doctor/known_errors.toml" in files
    assert files - wheel == set()
    assert any(name.endswith("/licenses/LICENSE") for name in wheel)
    assert {name.partition("/")[0].partition("-")[0] for name in wheel} == {"ra_gateway"}


def test_the_wheel_has_what_operators_start_from(wheel: set[str]) -> None:
    """deploy/, config/, every page and message in one directory; manual and completion where they are looked for."""
    there = {
        str(path.relative_to(ROOT))
        for pattern in ("deploy/**/*", "config/*", "docs/*.md", "*.md", "tests/vectors/**/*")
        for path in ROOT.glob(pattern)
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "secrets.csv"
    }
    assert {
        "tests/vectors/ir.der",
        "tests/vectors/index.json",
        "tests/vectors/pki/acme-root.pem",
        "deploy/ra-gateway.service",
        "deploy/ra-gateway@.service",
        "deploy/ra-gateway-ca.service",
        "deploy/haproxy.cfg",
        "config/gateway.production.toml",
        "docs/deployment.md",
    } < there
    share = "ra_gateway/share/"
    assert {name.removeprefix(share) for name in wheel if name.startswith(share)} == {
        *there,
        "LICENSE",
    }
    data = {name.partition(".data/data/")[2] for name in wheel if ".data/" in name}
    assert data == {
        "share/man/man1/ra-gateway.1",
        "share/bash-completion/completions/ra-gateway",
        "share/zsh/site-functions/_ra-gateway",
        "share/fish/vendor_completions.d/ra-gateway.fish",
    }


def test_links_of_the_installed_pages_lead_somewhere(unpacked: Path) -> None:
    """All of them."""
    pages = [*(unpacked / "ra_gateway" / "share").rglob("*.md")]
    dead = {
        target
        for page in pages
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
        if not (page.parent / target).exists()
    }
    assert dead == set()
    assert len(pages) > 20


def test_the_command_says_where_they_are(unpacked: Path) -> None:
    """Of the installed wheel; in the source tree, where nothing is copied, the tree."""
    for place, found in ((unpacked, unpacked / "ra_gateway" / "share"), (ROOT, ROOT)):
        done = subprocess.run(
            [sys.executable, "-m", "ra_gateway", "samples"],
            cwd=place,
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout == f"{found}\n"
