"""What the doctor says of a bundled CA that does not hear its gateway, of its directory, and of answers to genm."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ra_gateway.app.doctor.directory import examine_directory
from ra_gateway.app.doctor.examination import examine
from ra_gateway.app.doctor.known_errors import UNKNOWN, explain
from ra_gateway.app.doctor.registered import examine_registered
from ra_gateway.app.doctor.results import Verdict
from ra_gateway.cmp.codes import BodyType
from ra_gateway.config.reading import load
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.files import write_new
from tests.support.commandline import run, succeeded
from tests.support.pki import VendorPKI
from tests.support.setups import edit, http_upstream, make_setup, set_upstream
from tests.support.slapd import ADMIN, PASSWORD, SUFFIX, Slapd


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path, vendors={"acme": vendor_pki})


def troubles(config: Path) -> list[dict[str, str]]:
    """All rows of the doctor that are faults."""
    rows: list[dict[str, str]] = json.loads(run("doctor", "--config", config, "--json").stdout)
    return [row for row in rows if row["verdict"] == "fault"]


def test_a_blocked_ra_is_named_with_what_unblocks_it(config: Path) -> None:
    """By the ledger, and by what the CA says to every probe, which is told once."""
    succeeded("ca", "ra", "block", "gateway", "--config", config)
    known, said = troubles(config)
    assert known["subject"] == "registered RAs"
    assert known["came_back"] == "blocked"
    unblock = f"ra-gateway ca ra unblock --config {config} gateway"
    assert known["setting"].partition(";")[0] == unblock
    assert said["tried"].count(";") == 2
    assert "signerNotTrusted" in said["came_back"]
    assert "ca ra unblock" in said["setting"]
    succeeded(*unblock.split()[1:])
    assert troubles(config) == []


def test_an_ra_that_the_ca_does_not_know_is_named_with_what_registers_it(config: Path) -> None:
    """The command that is advised is the one that helps."""
    succeeded("ca", "ra", "delete", "gateway", "--config", config)
    known, said = troubles(config)
    assert "is registered for no RA; there are: none" in known["came_back"]
    assert "ca ra add" in said["setting"]
    command = known["setting"].partition(";")[0]
    command = command.replace("NAME", "gateway").replace("ROLE", "ra")
    succeeded(*command.split()[1:])
    assert troubles(config) == []


async def test_a_registered_certificate_that_ends_is_told(config: Path) -> None:
    """Of this gateway it is a fault once it is over, of another RA a warning."""
    settings = load(config)
    assert settings.ca is not None
    own = settings.ra.certificate_path
    now = datetime.now(UTC)
    (found,) = await examine_registered(settings.ca, now, own)
    assert (found.verdict, found.tried) == (Verdict.ok, "gateway (this gateway)")
    for days, path, verdict in (
        (1080, own, Verdict.warning),
        (2000, own, Verdict.fault),
        (2000, None, Verdict.warning),
    ):
        (found,) = await examine_registered(settings.ca, now + timedelta(days=days), path)
        assert found.verdict is verdict, found
        assert "ca ra issue gateway" in found.setting


async def test_a_path_that_is_none_is_told_once(config: Path) -> None:
    """HTTP 404 to each of the probes is one row."""
    async with TestServer(web.Application()) as server:
        set_upstream(config, http_upstream(str(server.make_url("/cmp"))))
        found = [row for row in await examine(load(config)) if row.verdict is Verdict.fault]
    assert [row.came_back[:8] for row in found] == ["HTTP 404"]


GENM = BodyType.genm
TOLD = {
    "badTime": ("", (PKIFailureInfo.badTime,), True, "the clocks of gateway and CA differ"),
    "notAuthorized": ("", (PKIFailureInfo.notAuthorized,), True, "does not let it ask for this"),
    "signerNotTrusted": ("", (PKIFailureInfo.signerNotTrusted,), True, "does not know the RA"),
    "a broken connection": (
        "BrokenPipeError: [Errno 32] Broken pipe",
        (),
        False,
        "broke the connection off",
    ),
    "an error of its own": ("?", (PKIFailureInfo.badRequest,), True, "answers no such questions"),
}


@pytest.mark.parametrize("case", TOLD)
def test_genm_is_blamed_for_nothing_else(case: str) -> None:
    text, fail_info, answered, cause = TOLD[case]
    for is_ejbca in (True, False):
        found = explain(text, fail_info, GENM, is_ejbca=is_ejbca, answered=answered)
        assert cause in found.cause
        assert ("genm.ca_certs" in found.setting) is (case == "an error of its own")


def test_what_nobody_knows_of_a_failed_connection_is_no_matter_of_genm() -> None:
    assert explain("what is this", (), GENM, answered=False) is UNKNOWN


# --- the directory that CRLs are published to -----------------------------------------------------------------


def published(config: Path, slapd: Slapd, entry: str, password: str = PASSWORD) -> None:
    """Have a setup publish its CRLs to a directory."""
    write_new(config.parent / "bind", password.encode())
    edit(
        config,
        "[ca.server]",
        f"""[ca.status]
listen_port = 0

[ca.ldap]
url = "ldap://127.0.0.1:{slapd.port}"
entry = "{entry}"
bind_dn = "{ADMIN}"
bind_password_path = "bind"

[ca.server]""",
    )


DIRECTORIES = {
    "well": ("cn={issuer}," + SUFFIX, PASSWORD, Verdict.ok, "the CA makes it"),
    "no parent": ("cn={issuer},ou=none," + SUFFIX, PASSWORD, Verdict.fault, "ou=none"),
    "wrong password": ("cn={issuer}," + SUFFIX, "x" * 16, Verdict.fault, "the login was refused"),
}


@pytest.mark.parametrize("case", DIRECTORIES)
async def test_the_directory_of_crls_is_looked_into(config: Path, slapd: Slapd, case: str) -> None:
    """Nothing is written: what is not there yet is not there afterwards."""
    entry, password, verdict, said = DIRECTORIES[case]
    published(config, slapd, entry, password)
    settings = load(config)
    assert settings.ca is not None
    for _ in range(2):
        *_, found = await examine_directory(settings.ca)
        assert found.verdict is verdict, found
        assert said in found.came_back


async def test_a_directory_that_is_away_is_found(config: Path, slapd: Slapd) -> None:
    published(config, slapd, "cn={issuer}," + SUFFIX)
    edit(config, f"ldap://127.0.0.1:{slapd.port}", "ldap://127.0.0.1:1")
    settings = load(config)
    assert settings.ca is not None
    (found,) = await examine_directory(settings.ca)
    assert (found.verdict, found.setting[:11]) == (Verdict.fault, "ca.ldap.url")
