"""The lock files that production installs from: complete, with hashes, and what pyproject.toml allows."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ra_gateway import __version__
from tests.support.deploy_tools import write_bill_of_materials

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


def locked(name: str) -> dict[str, Requirement]:
    """Return what a lock file installs; each line of it is understood, and has hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found: dict[str, Requirement] = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        pin, *hashes = re.split(r"\s+--hash=", line)
        assert hashes, f"{name}: {pin} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", item) for item in hashes), line
        requirement = Requirement(pin)
        assert requirement.url is None
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), pin
        assert canonicalize_name(requirement.name) not in found
        found[canonicalize_name(requirement.name)] = requirement
    return found


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


def test_the_bill_of_materials_is_that_of_the_lock(tmp_path: Path) -> None:
    """Every package with its release and hashes, and nothing else; it is told of which release of ours."""
    write_bill_of_materials(tmp_path / "sbom.json")
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    own = bill["metadata"]["component"]
    assert (own["name"], own["version"]) == ("ra-gateway", __version__)
    found = {item["name"]: item for item in bill["components"]}
    assert {canonicalize_name(name): f"=={item['version']}" for name, item in found.items()} == {
        name: str(pin.specifier) for name, pin in locked("requirements-all.lock").items()
    }
    for item in found.values():
        hashes = item["externalReferences"][0]["hashes"]
        assert {entry["alg"] for entry in hashes} == {"SHA-256"}
