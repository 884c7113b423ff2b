"""What is read of the root's CRL without its key: what is served, and what a directory that lost a file says."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from ra_gateway.ca.cross import RootKey, make_root_crl
from ra_gateway.ca.keys import create_operator_pki, expiries
from ra_gateway.ca.root_record import RootCRL

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A CA whose root has made two CRLs."""
    asyncio.run(create_operator_pki(tmp_path / "ca", now=NOW, name="Op"))
    make_root_crl(tmp_path / "ca", RootKey(), now=NOW, days=30, revoke={}, first=True)
    later = NOW + timedelta(days=1)
    make_root_crl(tmp_path / "ca", RootKey(), now=later, days=30, revoke={})
    return tmp_path / "ca"


def served_der(served: RootCRL) -> bytes:
    found = served()
    return b"" if found is None else found.der


@pytest.mark.requirement("T26")
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("lost", ["removed", "older", "broken"])
def test_the_newest_is_served(directory: Path, lost: str, running: bool) -> None:
    """Where root.crl is lost, or an older one is put back: from what was read, or from its copy."""
    crl = directory / "root.crl"
    newest, served = crl.read_bytes(), RootCRL(directory)
    if running:
        assert served_der(served) == newest
        if lost != "broken":
            shutil.rmtree(directory / "retired-crls" / "2")
    older = (directory / "retired-crls" / "1" / "root.crl").read_bytes()
    with structlog.testing.capture_logs() as lines:
        if lost == "removed":
            crl.unlink()
        else:
            crl.write_bytes(older if lost == "older" else b"hello")
        found = served()
        assert served() == found
    assert any(line["event"].startswith("ca.root_crl_") for line in lines)
    if lost == "broken" and not running:
        assert found is None
    else:
        assert served_der(served) == newest


@pytest.mark.requirement("T26")
def test_none_was_made(tmp_path: Path) -> None:
    """None is served, and none expires."""
    asyncio.run(create_operator_pki(tmp_path / "ca", now=NOW, name="Op"))
    assert RootCRL(tmp_path / "ca")() is None
    assert "CRL of the root" not in {item.subject for item in expiries(tmp_path / "ca")}


@pytest.mark.requirement("T26")
@pytest.mark.parametrize("lost", ["all", "the last one"])
def test_no_number_comes_twice(directory: Path, lost: str) -> None:
    """RFC 5280 5.2.3, also where a directory was put back in which nothing tells of the last CRL."""
    moment = NOW + timedelta(days=2)
    if lost == "the last one":
        shutil.rmtree(directory / "retired-crls" / "2")
        older = (directory / "retired-crls" / "1" / "root.crl").read_bytes()
        (directory / "root.crl").write_bytes(older)
    last = int((NOW + timedelta(days=1)).timestamp())
    if lost == "all":
        shutil.rmtree(directory / "retired-crls")
        (directory / "root.crl").unlink()
    first = lost == "all"
    number, *_ = make_root_crl(directory, RootKey(), now=moment, days=30, revoke={}, first=first)
    assert number > last
    again, *_ = make_root_crl(directory, RootKey(), now=moment, days=30, revoke={})
    assert again > number
