"""What is installed from the built wheel: the whole package, its type marker, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel, built by the backend that pyproject.toml names."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("ra_gateway-*-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_is_typed(wheel: set[str]) -> None:
    """PEP 561: without the marker, type checkers ignore the annotations of an installed package."""
    assert "ra_gateway/py.typed" in wheel


def test_the_wheel_has_the_whole_package(wheel: set[str]) -> None:
    """Every module and data file, migrations included, and the licence; no tests, documents or configuration."""
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "ra_gateway").rglob("*.*")
        if path.suffix in (".py", ".toml")
    }
    assert "ra_gateway/app/doctor/known_errors.toml" in files
    assert files - wheel == set()
    assert any(name.endswith("/licenses/LICENSE") for name in wheel)
    assert {name.partition("/")[0].partition("-")[0] for name in wheel} == {"ra_gateway"}
