"""The lock files that production installs from: complete, with hashes, and what pyproject.toml allows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.locks import locked

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: Final = PROJECT["optional-dependencies"]
BUILD: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
PYTHONS: Final = ("3.11", "3.12", "3.13")

WANTED: Final = {
    "requirements.lock": PROJECT["dependencies"],
    "requirements-all.lock": [
        *PROJECT["dependencies"], *EXTRAS["ca"], *EXTRAS["postgres"], *EXTRAS["hsm"]
    ],
    "requirements-build.lock": BUILD,
}  # fmt: skip


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_has_what_the_project_asks_for(name: str, python: str) -> None:
    """On each Python that is supported, a release out of the range."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
    }
    pins = locked(name)
    for wanted in map(Requirement, WANTED[name]):
        pin = pins[canonicalize_name(wanted.name)]
        assert pin.marker is None or pin.marker.evaluate(environment), pin
        (version,) = (item.version for item in pin.specifier)
        assert wanted.specifier.contains(version), f"{pin}, but pyproject.toml has {wanted}"


@pytest.mark.parametrize("name", WANTED)
def test_a_lock_names_no_place(name: str) -> None:
    """Neither an index, nor a host, nor a path of the machine that wrote it."""
    lines = (ROOT / name).read_text().splitlines()
    assert [line for line in lines if re.search(r"://|^\s*-(?!-hash)|@ |file:|^\.|/", line)] == []


def test_a_gateway_alone_carries_no_more_than_it_needs() -> None:
    """No SQL, no linter, no PKCS#11, no test tools; and the same releases as with everything."""
    core, everything = locked("requirements.lock"), locked("requirements-all.lock")
    extra = {Requirement(item).name for group in EXTRAS.values() for item in group}
    assert not {canonicalize_name(name) for name in extra} & set(core)
    assert {name: str(pin) for name, pin in everything.items() if name in core} == {
        name: str(pin) for name, pin in core.items()
    }
    test_tools = {canonicalize_name(Requirement(item).name) for item in EXTRAS["test"]}
    assert not test_tools & set(everything)


def test_cryptography_is_a_range_of_its_series() -> None:
    """A security release of it is taken without one of ours; another series is not."""
    (range_,) = (
        item for item in map(Requirement, PROJECT["dependencies"]) if item.name == "cryptography"
    )
    assert range_.specifier.contains("50.0.9")
    assert not range_.specifier.contains("51.0.0")
    assert not range_.specifier.contains("50.0.1")
