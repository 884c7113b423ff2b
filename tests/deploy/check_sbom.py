"""The bill of materials says what the lock file says."""

from __future__ import annotations

import json
from pathlib import Path

from packaging.utils import canonicalize_name

from ra_gateway import __version__
from tests.support.deploy_tools import write_bill_of_materials
from tests.support.locks import locked


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
