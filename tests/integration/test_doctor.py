"""The doctor finds what is wrong around a gateway, names the setting to change, and has nothing issued."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer import testing

from ra_gateway.app.doctor.examination import examine
from ra_gateway.app.doctor.known_errors import Cause, explain, known_errors
from ra_gateway.app.doctor.ledger import examine_ledger
from ra_gateway.app.doctor.results import Result, Verdict
from ra_gateway.ca.ledger.ledger import open_ledger
from ra_gateway.cli.main import app
from ra_gateway.clocks import now
from ra_gateway.cmp.codes import CERT_RESPONSE_TO, BodyType
from ra_gateway.cmp.crmf import SignaturePOP, cert_req_messages
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.config.reading import load, parse
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.files import write_new
from tests.support.commands import run_command
from tests.support.crls import make_crl
from tests.support.ejbca import (
    CLIENT_ALIAS,
    ISSUING_CA,
    PROFILE,
    RA_ALIAS,
    VENDOR_ALIAS,
    Ejbca,
    EndEntity,
    EndEntityProfile,
    Status,
    make_ejbca,
    serve,
    server,
)
from tests.support.ejbca.authentication import Caller, authenticate
from tests.support.ejbca.installation import Received
from tests.support.ejbca.refusals import Refused
from tests.support.openssl import OpensslMockCA, load_certificate
from tests.support.pki import (
    CMC_RA,
    Authority,
    Credential,
    OperatorPKI,
    VendorPKI,
    make_key,
    make_operator_pki,
    make_root,
    write_certificates,
    write_key,
)
from tests.support.postgres_server import PostgresServer
from tests.support.processes import CAProcess, GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, http_upstream, keep_in_file, make_setup, set_upstream


@dataclass
class Site:
    """A gateway's configuration in a directory, with an EJBCA in front of the doctor.

    Args:
        upstream: Lines of the table of the upstream besides kind, url and dialect.
        more: Further lines.
        alias: Of EJBCA, in the URL.
        url: Instead of EJBCA's.
    """

    directory: Path
    operator: OperatorPKI
    ejbca: Ejbca
    upstream: list[str] = field(default_factory=list)
    dialect: str = 'dialect = "ejbca-ra"'
    more: str = ""
    store: str = 'kind = "memory"'
    alias: str = RA_ALIAS
    url: str | None = None

    def write(self, vendor: VendorPKI) -> None:
        self.operator.write(self.directory)
        vendor.write(self.directory / "acme")
        write_new(self.directory / "seal.key", b"a key of the nodes, for the tests\n")

    def write_ra(self, credential: Credential) -> None:
        write_certificates(self.directory / "ra.pem", credential.certificate)
        write_key(self.directory / "ra.key", credential.private_key)

    def set_alias(self, **changes: Any) -> None:
        self.ejbca.aliases[self.alias] = replace(self.ejbca.aliases[self.alias], **changes)

    def config(self, url: str) -> GatewayConfig:
        return parse(self.text(url), directory=self.directory, check_files=False)

    def text(self, url: str) -> str:
        lines = "\n".join(self.upstream)
        return f"""
[store]
{self.store}
[ra]
certificate_path = "ra.pem"
key_path = "ra.key"
chain_paths = ["issuing.pem"]
[operator]
anchors_paths = ["root.pem"]
intermediates_paths = ["issuing.pem"]
[vendors.acme]
anchors_paths = ["acme/root.pem"]
[vendors.acme.identity]
allowed_subjects = ["*"]
[upstreams.ejbca]
kind = "cmp_http"
url = "{url}"
{self.dialect}
{lines}
[endpoints.ran]
paths = ["/pkix"]
vendors = ["acme"]
upstream = "ejbca"
{self.more}
"""

    async def results(self) -> list[Result]:
        """Examine, and make sure that nothing was issued or revoked."""
        async with serve(self.ejbca) as url:
            found = await examine(self.config(self.url or f"{url}/{self.alias}"))
        assert self.ejbca.issued == []
        assert self.ejbca.revoked == []
        return found

    async def faults(self) -> list[Result]:
        return [item for item in await self.results() if item.verdict is Verdict.fault]


@pytest.fixture
def site(tmp_path: Path, operator_pki: OperatorPKI, vendor_pki: VendorPKI) -> Site:
    """A healthy one."""
    made = Site(tmp_path, operator_pki, make_ejbca(operator_pki, vendor=vendor_pki))
    made.write(vendor_pki)
    return made


def unwell(results: list[Result]) -> list[Result]:
    return [item for item in results if item.verdict is not Verdict.ok and item.subject != "safety"]


def of_probe(results: list[Result], request: str) -> Result:
    """The row of one probe."""
    (found,) = (item for item in results if item.tried.startswith(f"{request} "))
    return found


# --- healthy --------------------------------------------------------------------------------------------------


async def test_a_healthy_ejbca_gets_ok_only(site: Site) -> None:
    """Each of the three probes is refused as it should be, and everything else is well."""
    results = await site.results()
    assert unwell(results) == []
    assert [of_probe(results, name).verdict for name in ("ir", "kur", "rr")] == [Verdict.ok] * 3
    assert "badPOP" in of_probe(results, "ir").came_back
    assert "badCertId" in of_probe(results, "rr").came_back
    assert "non-existing end entity" in of_probe(results, "kur").came_back
    assert len(site.ejbca.received) == 3


async def test_no_probe_says_ra_verified(site: Site) -> None:
    """Not even to a CA that would believe it."""
    assert site.ejbca.aliases[RA_ALIAS].allowraverifypopo
    await site.results()
    asked = {
        message.body_type: cert_req_messages(message.body_content)[0]
        for message in site.ejbca.messages
        if message.body_type in CERT_RESPONSE_TO
    }
    assert set(asked) == {BodyType.ir, BodyType.kur}
    assert all(isinstance(item.pop, SignaturePOP) for item in asked.values())


async def test_the_doctor_leaves_nothing_behind(site: Site) -> None:
    """After two visits EJBCA knows whom it knew before."""
    await site.results()
    await site.results()
    assert list(site.ejbca.database.entities) == ["ra"]


async def test_allowraverifypopo_is_irrelevant(site: Site) -> None:
    """What the alias says of raVerified changes no row."""
    site.set_alias(allowraverifypopo=False)
    assert unwell(await site.results()) == []


# --- what EJBCA says ------------------------------------------------------------------------------------------


def forget_ra(site: Site) -> None:
    site.ejbca.database.certificates.clear()


def dismiss_ra(site: Site) -> None:
    site.ejbca.roles.clear()


def revoke_ra(site: Site) -> None:
    site.ejbca.database.certificates[0].reason = 1


def deactivate_ra(site: Site) -> None:
    site.ejbca.database.certificates[0].active = False


def use_vendor_alias(site: Site) -> None:
    site.ejbca.enterprise = True
    site.alias = VENDOR_ALIAS


def spend_entity(site: Site) -> None:
    """A client-mode alias at which the subject of the probe has its certificate already."""
    site.alias = CLIENT_ALIAS
    site.ejbca.database.entities["doctor"] = EndEntity(
        "ra",
        from_rfc4514("CN=ra-gateway-doctor"),
        ISSUING_CA,
        "ENDUSER",
        PROFILE,
        status=Status.generated,
    )


FAULTS: dict[str, tuple[Callable[[Site], object], str, str, str]] = {
    "the RA certificate is not in the database": (
        forget_ra,
        "could not be found in the database",
        "unknown to EJBCA",
        "web.reqcertindb",
    ),
    "the RA certificate is in no role": (
        dismiss_ra,
        "not an authorized administrator",
        "in no role",
        "/ca_functionality/create_certificate",
    ),
    "the RA certificate is revoked": (revoke_ra, "is revoked", "revoked", "ra.certificate_path"),
    "the RA certificate is inactive": (
        deactivate_ra,
        "is not active",
        "not active",
        "ra.certificate_path",
    ),
    "there is no such alias": (
        lambda site: setattr(site, "alias", "nobody"),
        "HTTP 404",
        "no such alias",
        "upstreams.ejbca.url",
    ),
    "the alias has too long a name": (
        lambda site: setattr(site, "alias", "a" * 33),
        "HTTP 400",
        "32 characters",
        "upstreams.ejbca.url",
    ),
    "a proxy says that EJBCA is down": (
        lambda site: setattr(site.ejbca, "unavailable", True),
        "HTTP 503",
        "overloaded",
        "rate limits",
    ),
    "the alias is in vendor mode": (
        use_vendor_alias,
        "configured Vendor CAs",
        "vendor certificate mode",
        "vendorcertificatemode",
    ),
    "the alias is in client mode": (
        lambda site: setattr(site, "alias", CLIENT_ALIAS),
        "not found",
        "client mode",
        "operationmode = ra",
    ),
    "the alias is in client mode and the entity has its certificate": (
        spend_entity,
        "status GENERATED",
        "client mode",
        "operationmode = ra",
    ),
    "the alias expects RAs of another CA": (
        lambda site: site.set_alias(authenticationparameters="RootCA"),
        "chain is invalid",
        "RA certificates of another CA",
        "authenticationparameters",
    ),
    "modules and parameters differ in number": (
        lambda site: site.set_alias(authenticationparameters=f"{ISSUING_CA};-"),
        "CMP module configuration error",
        "same number of entries",
        "authenticationmodule = EndEntityCertificate",
    ),
    "the alias omits verifications": (
        lambda site: site.set_alias(ra_endentitycertificate_omitverifications=True),
        "omitting some verifications",
        "RA mode and an authenticated nested message",
        "omitverifications = false",
    ),
    "the alias has both modes": (
        lambda site: site.set_alias(vendorcertificatemode=True),
        "cannot be combined",
        "exclude each other",
        "vendorcertificatemode = false",
    ),
    "the alias names a CA that does not exist": (
        lambda site: site.set_alias(ra_caname="Nobody"),
        "not an authorized administrator",
        "names a CA or profile that does not exist",
        "ra.caname",
    ),
    "the CA wants approvals": (
        lambda site: site.ejbca.cas.update(
            {ISSUING_CA: replace(site.ejbca.cas[ISSUING_CA], approvals=True)}
        ),
        "waits for approval",
        "approve",
        "approvals",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_ejbca_says_is_explained(site: Site, fault: str) -> None:
    """The row of the ir has EJBCA's text, the likely cause, and the setting that was wrong."""
    plant, text, cause, setting = FAULTS[fault]
    plant(site)
    found = of_probe(await site.results(), "ir")
    assert found.verdict is Verdict.fault
    assert text.casefold() in found.came_back.casefold()
    assert cause in found.cause
    assert setting in found.setting


async def test_an_alias_that_cannot_authenticate_a_kur_is_found(site: Site) -> None:
    """Where only HMAC is configured, the row of the kur names the module that is missing."""
    site.set_alias(authenticationmodule="HMAC", authenticationparameters="secret")
    found = of_probe(await site.results(), "kur")
    assert found.verdict is Verdict.fault
    assert "authenticationmodule must have EndEntityCertificate" in found.setting


async def test_a_missing_right_to_revoke_is_not_to_be_seen_at_ejbca(
    tmp_path: Path, operator_pki: OperatorPKI, vendor_pki: VendorPKI
) -> None:
    """EJBCA looks for the certificate before the right, so that the doctor cannot see it: it says what it saw."""
    site = Site(tmp_path, operator_pki, make_ejbca(operator_pki, rights=("enrol",)))
    site.write(vendor_pki)
    assert "badCertId" in of_probe(await site.results(), "rr").came_back


async def test_a_profile_that_wants_names_is_a_warning(site: Site) -> None:
    """The probe's names are not a device's: with names that fit, the same EJBCA is well."""
    site.ejbca.end_entity_profiles[PROFILE] = EndEntityProfile(
        7, fields={"DNSNAME": 1}, default_ca=ISSUING_CA
    )
    found = of_probe(await site.results(), "ir")
    assert (found.verdict, "--san" in found.setting) == (Verdict.warning, True)
    assert "wrong number of DNSNAME" in found.came_back
    async with serve(site.ejbca) as url:
        results = await examine(site.config(f"{url}/{RA_ALIAS}"), san=("dns:doctor.example.net",))
    assert of_probe(results, "ir").verdict is Verdict.ok
    assert site.ejbca.issued == []


async def test_a_recipient_that_is_no_ca_is_found_by_unprotected_errors(site: Site) -> None:
    """EJBCA does not sign its errors then; the setting is named, and what it should be."""
    site.upstream = ['recipient = "CN=Somebody Else"']
    faults = await site.faults()
    unprotected = next(item for item in faults if item.tried == "protection of the answer to ir")
    assert unprotected.came_back == "error without protection"
    assert unprotected.setting.startswith("upstreams.ejbca.recipient")
    recipient = next(
        item for item in await site.results() if item.tried == "recipient of our messages"
    )
    assert recipient.verdict is Verdict.warning
    assert "Example Operator Issuing CA" in recipient.came_back


async def test_an_old_ejbca_that_signs_no_errors_is_only_a_warning(site: Site) -> None:
    """The recipient is right, so that the release is the likely cause."""
    site.ejbca.release = 7
    (found,) = unwell(await site.results())
    assert found.verdict is Verdict.warning
    assert "before 8" in found.cause


async def test_a_ca_that_signs_with_an_unknown_certificate_is_found(
    tmp_path: Path, operator_pki: OperatorPKI, vendor_pki: VendorPKI
) -> None:
    """Answers of a CA under another root: ca_certificate_paths is the setting, and with it all is well."""
    other = make_operator_pki("Other Operator")
    ra = other.issuing.issue("CN=Gateway", eku=[CMC_RA])
    site = Site(tmp_path, operator_pki, make_ejbca(other, ra))
    site.write(vendor_pki)
    site.write_ra(ra)
    write_certificates(tmp_path / "issuing.pem", other.issuing.certificate)
    write_certificates(tmp_path / "root.pem", other.root.certificate)
    write_certificates(tmp_path / "elsewhere.pem", operator_pki.root.certificate)
    write_certificates(tmp_path / "ca.pem", other.issuing.certificate)
    site.upstream = ['trust_anchors_paths = ["elsewhere.pem"]']
    (fault,) = await site.faults()
    assert fault.tried == "protection of the answer to ir"
    assert "the CA signs with its own certificate" in fault.cause
    assert fault.setting.startswith("upstreams.ejbca.ca_certificate_paths")
    site.upstream.append('ca_certificate_paths = ["ca.pem"]')
    assert await site.faults() == []


@pytest.mark.parametrize(
    "seconds, verdict", [(600, Verdict.fault), (-600, Verdict.fault), (120, Verdict.warning)]
)
async def test_a_clock_that_is_wrong_is_found(site: Site, seconds: int, verdict: Verdict) -> None:
    """By messageTime of the answers: ten minutes are a fault, two a warning."""
    site.ejbca.clock = lambda: datetime.now(UTC) + timedelta(seconds=seconds)
    (found,) = unwell(await site.results())
    assert found.verdict is verdict
    assert found.tried == "clock (messageTime)"
    assert ("ahead" in found.came_back) == (seconds > 0)
    assert "NTP" in found.setting


async def test_without_answers_the_clock_is_told_by_http(site: Site) -> None:
    """HTTP has the date too."""
    site.alias = "nobody"
    assert [item.verdict for item in await site.results() if "HTTP Date" in item.tried] == [
        Verdict.ok
    ]


async def test_messages_larger_than_ejbca_takes_are_warned_of(site: Site) -> None:
    """A base station may send more than EJBCA takes."""
    site.more = "[server]\nmax_body_bytes = 200000"
    (found,) = unwell(await site.results())
    assert found.setting == "server.max_body_bytes = 91808 or less"


async def test_answers_larger_than_allowed_are_explained() -> None:
    """By the text of our own HTTP client."""
    found = explain("HTTP 200 with more than 4096 bytes", (), BodyType.ir)
    assert found.setting == "upstreams.{name}.max_response_bytes"


# --- CAs that are not as they should be -----------------------------------------------------------------------


async def test_a_ca_that_verifies_no_proof_is_a_fault(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a certificate comes back after all, its serial number is told, to have it revoked."""
    monkeypatch.setattr(server, "possession_proved", lambda *args, **options: True)
    async with serve(site.ejbca) as url:
        results = await examine(site.config(f"{url}/{RA_ALIAS}"))
    (issued,) = site.ejbca.issued
    found = of_probe(results, "ir")
    assert (found.verdict, found.cause) == (
        Verdict.fault,
        "the CA does not verify proof of possession",
    )
    assert f"revoke the certificate with serial number {issued.serial_number:x}" in found.setting


async def test_a_ca_that_wants_a_kur_from_the_device_is_found(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the ir of the RA, and says notAuthorized to its kur: kur = "nested" or "forward"."""

    def refuse_kur(here: Ejbca, received: Received) -> Caller:
        if received.message.body_type is BodyType.kur:
            raise Refused("who are you", PKIFailureInfo.notAuthorized)
        return authenticate(here, received)

    monkeypatch.setattr(server, "authenticate", refuse_kur)
    found = of_probe(await site.results(), "kur")
    assert found.verdict is Verdict.fault
    assert 'upstreams.ejbca.kur = "nested" or "forward"' in found.setting


async def test_a_kur_that_goes_up_untouched_is_not_probed(site: Site) -> None:
    """Only the device could sign it."""
    site.upstream = ['kur = "forward"']
    results = await site.results()
    assert [item.body_type for item in site.ejbca.messages] == [BodyType.ir, BodyType.rr]
    assert unwell(results) == []
    assert [item.tried for item in results if item.came_back.startswith("not tried")] == ["kur"]


async def test_an_alias_in_client_mode_for_kur_alone_is_well(site: Site) -> None:
    """Where only kur goes there, as base stations signed it, nothing but the rr can be tried."""
    async with serve(site.ejbca) as url:
        site.more = f"""
[[endpoints.ran.routes]]
body_types = ["kur"]
upstream = "renewals"
[upstreams.renewals]
kind = "cmp_http"
url = "{url}/{CLIENT_ALIAS}"
dialect = "ejbca-client"
"""
        results = await examine(site.config(f"{url}/{RA_ALIAS}"))
    assert unwell(results) == []
    asked = [(item.subject, item.tried.split()[0]) for item in results if " a" in item.came_back]
    assert ("upstream renewals", "rr") in asked
    assert ("upstream renewals", "ir") not in asked


async def test_a_signer_of_the_ca_that_expires_is_warned_of(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Answers will not be believed any more when it has."""
    operator = make_operator_pki()
    soon = operator.root.issue_ca(
        "CN=Short Issuing CA", path_length=0, not_after=datetime.now(UTC) + timedelta(days=5)
    )
    operator = replace(operator, issuing=soon, ra=soon.issue("CN=RA", eku=[CMC_RA]))
    site = Site(tmp_path, operator, make_ejbca(operator))
    site.write(vendor_pki)
    warned = {item.tried: item.verdict for item in unwell(await site.results())}
    assert warned == {
        "validity of CN=Short Issuing CA": Verdict.warning,
        "protection of the answer to ir": Verdict.warning,
    }


async def test_genm_is_asked_where_base_stations_may(site: Site) -> None:
    """EJBCA answers none, which is a warning with what to set."""
    site.dialect = 'certconf = "local"'
    site.more = 'body_types = ["ir", "kur", "genm"]'
    found = of_probe(await site.results(), "genm")
    assert (found.verdict, "genm.ca_certs" in found.setting) == (Verdict.warning, True)


async def test_settings_that_do_not_suit_ejbca_are_found(site: Site) -> None:
    """It reads no certConf, and issues again when it is asked again."""
    site.dialect = "replays_repeats = true"
    confirming, repeating = unwell(await site.results())
    assert confirming.verdict is Verdict.warning
    assert 'certconf = "local"' in confirming.setting
    assert repeating.verdict is Verdict.fault
    assert repeating.setting == "upstreams.ejbca.replays_repeats = false"


# --- the gateway's own material -------------------------------------------------------------------------------

NOW = datetime.now(UTC)


def expired_ra(site: Site) -> None:
    site.write_ra(
        site.operator.issuing.issue(
            "CN=RA", eku=[CMC_RA], not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(1)
        )
    )


def ra_of_tomorrow(site: Site) -> None:
    site.write_ra(
        site.operator.issuing.issue("CN=RA", eku=[CMC_RA], not_before=NOW + timedelta(days=1))
    )


def ra_without_signature(site: Site) -> None:
    site.write_ra(site.operator.issuing.issue("CN=RA", eku=[CMC_RA], key_usage=["keyAgreement"]))


def ra_of_another_root(site: Site) -> None:
    site.write_ra(make_root("CN=Elsewhere").issue("CN=RA", eku=[CMC_RA]))


def another_key(site: Site) -> None:
    (site.directory / "ra.key").unlink()
    write_key(site.directory / "ra.key", make_key("p256"))


def no_key(site: Site) -> None:
    (site.directory / "ra.key").unlink()


def no_certificate(site: Site) -> None:
    (site.directory / "ra.pem").write_text("nothing")


def set_anchor(site: Site, **options: Any) -> None:
    root = make_root("CN=ACME Root", options.pop("key", "p256"), **options)
    write_certificates(site.directory / "acme/root.pem", root.certificate)


def expired_anchor(site: Site) -> None:
    set_anchor(site, not_after=NOW - timedelta(days=1))


def anchor_that_is_no_ca(site: Site) -> None:
    set_anchor(site, basic_constraints=x509.BasicConstraints(ca=False, path_length=None))


def short_anchor(site: Site) -> None:
    set_anchor(site, key="rsa1024")


def missing_inventory(site: Site) -> None:
    site.more = '[inventory]\ncsv_path = "devices.csv"'


def broken_inventory(site: Site) -> None:
    missing_inventory(site)
    (site.directory / "devices.csv").write_text("who,what\n")


MATERIAL: dict[str, tuple[Callable[[Site], None], str, str]] = {
    "RA certificate expired": (expired_ra, "expired at", "ra.certificate_path"),
    "RA certificate not valid yet": (ra_of_tomorrow, "valid only from", "clock"),
    "RA certificate without digitalSignature": (
        ra_without_signature,
        "keyUsage lacks digitalSignature",
        "digitalSignature",
    ),
    "RA certificate of another root": (ra_of_another_root, "no path", "ra.chain_paths"),
    "key of another certificate": (another_key, "does not belong", "ra.key_path"),
    "key missing": (no_key, "no private key can be read", "ra.key_path"),
    "certificate unreadable": (no_certificate, "no certificate", "ra.certificate_path"),
    "vendor anchor expired": (expired_anchor, "expired at", "vendors.acme.anchors_paths"),
    "vendor anchor no CA": (anchor_that_is_no_ca, "lacks CA:TRUE", "vendors.acme.anchors_paths"),
    "vendor anchor too short": (short_anchor, "1024 bits", "vendors.acme.algorithms.min_rsa_bits"),
    "inventory missing": (missing_inventory, "No such file", "inventory.csv_path"),
    "inventory broken": (broken_inventory, "another header", "inventory.csv_path"),
}


@pytest.mark.parametrize("fault", MATERIAL)
async def test_faults_of_our_own_material_are_found(site: Site, fault: str) -> None:
    """The row has what is wrong and the setting, and the exit code would be 1."""
    plant, came_back, setting = MATERIAL[fault]
    plant(site)
    assert [
        item
        for item in await site.faults()
        if came_back in item.came_back and setting in item.setting
    ]


async def test_a_certificate_that_expires_is_warned_of(
    tmp_path: Path, operator_pki: OperatorPKI, vendor_pki: VendorPKI
) -> None:
    """With the days that are left."""
    ra = operator_pki.issuing.issue(
        "CN=RA", eku=[CMC_RA], not_after=NOW + timedelta(days=9, hours=1)
    )
    site = Site(tmp_path, operator_pki, make_ejbca(operator_pki, ra))
    site.write(vendor_pki)
    site.write_ra(ra)
    (found,) = unwell(await site.results())
    assert found.verdict is Verdict.warning
    assert found.came_back.startswith("expires in 9 days")


async def test_an_ra_certificate_without_cmc_ra_is_warned_of(
    tmp_path: Path, operator_pki: OperatorPKI, vendor_pki: VendorPKI
) -> None:
    """EJBCA does not mind; others do."""
    ra = operator_pki.issuing.issue("CN=RA")
    site = Site(tmp_path, operator_pki, make_ejbca(operator_pki, ra))
    site.write(vendor_pki)
    site.write_ra(ra)
    (found,) = unwell(await site.results())
    assert (found.verdict, "cmcRA" in found.came_back) == (Verdict.warning, True)


# --- the way to the CA ----------------------------------------------------------------------------------------


async def test_a_refused_connection_is_found(site: Site) -> None:
    """Nobody listens there, and no message is tried."""
    async with serve(site.ejbca) as url:
        pass
    site.url = f"{url}/{RA_ALIAS}"
    (fault,) = await site.faults()
    assert fault.tried.startswith("TCP: 127.0.0.1:")
    assert "nobody listens there" in fault.cause
    assert fault.setting.startswith("upstreams.ejbca.url")


async def test_an_unknown_name_is_found(site: Site) -> None:
    """A name under .invalid, which never exists (RFC 2606)."""
    site.url = "http://ejbca.invalid/ejbca/publicweb/cmp/ra"
    (fault,) = await site.faults()
    assert fault.tried == "DNS: ejbca.invalid"
    assert "DNS" in fault.setting


async def test_a_tls_certificate_of_another_root_is_found(site: Site) -> None:
    """tls_ca_path is the setting; with the right root all is well."""
    root = make_root("CN=TLS Root")
    certificate, key = root.issue("CN=127.0.0.1", san=["ip:127.0.0.1"]).write(site.directory, "tls")
    write_certificates(site.directory / "tls-root.pem", root.certificate)
    write_certificates(site.directory / "other-root.pem", make_root("CN=Other").certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def handle(request: web.Request) -> web.Response:
        return web.Response(
            body=site.ejbca.answer(await request.read(), RA_ALIAS),
            content_type="application/pkixcmp",
        )

    application = web.Application()
    application.router.add_post("/ra", handle)
    front = TestServer(application, host="127.0.0.1", scheme="https")
    await front.start_server(ssl=context)
    try:
        site.url = str(front.make_url("/ra"))
        site.upstream = ['tls_ca_path = "other-root.pem"']
        (fault,) = await site.faults()
        assert fault.tried.startswith("TLS: ")
        assert fault.setting.startswith("upstreams.ejbca.tls_ca_path")
        site.upstream = ['tls_ca_path = "tls-root.pem"']
        assert unwell(await site.results()) == []
    finally:
        await front.close()


async def test_a_proxy_that_is_away_is_found(site: Site) -> None:
    """The step that fails is the proxy's, and so is the setting."""
    site.upstream = ['proxy = "http://127.0.0.1:1"']
    (fault,) = await site.faults()
    assert fault.tried == "TCP: 127.0.0.1:1"
    assert fault.setting.startswith("upstreams.ejbca.proxy")


async def test_every_url_is_examined(site: Site) -> None:
    """Of two nodes one is down: the faults are the other's only."""
    async with serve(site.ejbca) as gone:
        pass
    async with serve(site.ejbca) as url:
        text = site.text("X").replace(
            'url = "X"', f'urls = ["{gone}/{RA_ALIAS}", "{url}/{RA_ALIAS}"]'
        )
        config = parse(text, directory=site.directory, check_files=False)
        results = await examine(config)
    (fault,) = unwell(results)
    assert fault.tried.startswith("TCP: ")
    assert of_probe(results, "ir").verdict is Verdict.ok


# --- the store ------------------------------------------------------------------------------------------------


async def test_a_redis_that_is_away_is_found(site: Site, own_redis_server: RedisServer) -> None:
    """store.redis_url_path is named; while it is there, all is well."""
    site.store = (
        f'kind = "redis"\nredis_url = "{own_redis_server.url}"\nseal_key_paths = ["seal.key"]'
    )
    own_redis_server.command("CONFIG SET appendonly yes")
    assert unwell(await site.results()) == []
    own_redis_server.stop()
    (fault,) = await site.faults()
    assert (fault.subject, "store.redis_url_path" in fault.setting) == ("store", True)


async def test_a_redis_that_forgets_is_found(site: Site, own_redis_server: RedisServer) -> None:
    """No file and no replica is a fault; so is an eviction policy with a limit of memory, without one a warning."""
    site.store = (
        f'kind = "redis"\nredis_url = "{own_redis_server.url}"\nseal_key_paths = ["seal.key"]'
    )
    (found,) = unwell(await site.results())
    assert found.verdict is Verdict.fault
    assert "appendonly is off, and it has no replica" in found.came_back
    own_redis_server.command("CONFIG SET appendonly yes")
    own_redis_server.command("CONFIG SET maxmemory-policy allkeys-lru")
    (found,) = unwell(await site.results())
    assert found.verdict is Verdict.warning
    own_redis_server.command("CONFIG SET maxmemory 100mb")
    (found,) = unwell(await site.results())
    assert found.verdict is Verdict.fault
    assert found.came_back.endswith("maxmemory-policy is allkeys-lru")
    assert found.setting.startswith("store: redis.conf: maxmemory-policy noeviction")


async def test_a_redis_user_who_may_not_all_is_found(
    site: Site, own_redis_server: RedisServer
) -> None:
    """The rights of docs/deployment.md are enough; without INFO or the keys it is said."""
    text = Path("docs/deployment.md").read_text()
    (rights,) = re.findall(r"(?m)^ +user gateway on >PASSWORD (.*)$", text)
    own_redis_server.command("CONFIG SET appendonly yes")
    own_redis_server.command(f"ACL SETUSER gateway on >horse {rights}")
    port = own_redis_server.port
    url = site.directory / "redis.url"
    url.touch(0o600)
    url.write_text(f"redis://gateway:horse@127.0.0.1:{port}/0")
    site.store = 'kind = "redis"\nredis_url_path = "redis.url"\nseal_key_paths = ["seal.key"]'
    assert unwell(await site.results()) == []
    own_redis_server.command("ACL SETUSER gateway -info")
    (found,) = unwell(await site.results())
    assert (found.verdict, "may not ask INFO" in found.came_back) == (Verdict.warning, True)
    own_redis_server.command("ACL SETUSER gateway resetkeys ~other:*")
    (found,) = await site.faults()
    assert found.subject == "store"


# --- other CAs ------------------------------------------------------------------------------------------------


def doctor(config: Path, *options: str) -> testing.Result:
    """Run the command."""
    return testing.CliRunner().invoke(app, ["doctor", "--config", str(config), *options])


def rows(result: testing.Result) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(result.stdout)
    return found


def troubles(result: testing.Result) -> list[dict[str, str]]:
    """All rows that are not well, but for what is less safe than it could be (test_warnings.py)."""
    return [row for row in rows(result) if row["verdict"] != "ok" and row["subject"] != "safety"]


def certificates(config: Path) -> str:
    """What the ledger of the bundled CA has."""
    listed = testing.CliRunner().invoke(app, ["ca", "list", "--config", str(config)])
    assert listed.exit_code == 0, listed.output
    return listed.stdout


def test_the_bundled_ca_gets_ok_only_beside_its_gateway(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """In the process of the gateway, which is running."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    before = certificates(config)
    with GatewayProcess(config):
        result = doctor(config, "--json")
    assert certificates(config) == before
    assert (result.exit_code, result.stderr) == (0, "")
    assert troubles(result) == []
    assert sum("refused as it should be" in row["came_back"] for row in rows(result)) == 3


def test_a_gateway_without_vendors_is_warned_of(tmp_path: Path) -> None:
    """No base station could have a first certificate."""
    result = doctor(make_setup(tmp_path, vendors={}), "--json", "--quiet")
    assert [(row["verdict"], row["subject"]) for row in troubles(result)] == [
        ("warning", "vendors")
    ]
    assert result.exit_code == 0


def test_the_bundled_ca_over_http_gets_ok_only(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """The command ends with 0, and the ledger has no certificate more than before."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})

    before = certificates(config)
    with CAProcess(config) as ca:
        set_upstream(config, http_upstream(ca.url))
        result = doctor(config, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert troubles(result) == []
    assert sum("refused as it should be" in row["came_back"] for row in rows(result)) == 3
    assert certificates(config) == before


@pytest.mark.parametrize(
    "command,probe,change",
    [
        (
            ("ra", "block", "gateway"),
            "ir",
            "the CA: ra-gateway ca ra list",
        ),
        (
            ("role", "add", "ra", "--privilege", "issue", "--privilege", "revoke"),
            "kur",
            "the right to kur at the CA (bundled CA: the privilege update",
        ),
    ],
    ids=["blocked", "no update"],
)
def test_an_ra_that_the_bundled_ca_does_not_hear_is_found(
    command: tuple[str, ...], probe: str, change: str, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """What to look at comes first, and nothing that has nothing to do with it."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    ended = run_command("ca", *command, "--config", str(config))
    assert ended.returncode == 0, ended.stderr
    found = row_of(config, f"{probe} ")
    assert found["verdict"] == "fault"
    assert found["setting"].startswith(change)


@pytest.mark.parametrize("mode,verdict", [("hard", "fault"), ("soft", "warning")])
def test_a_crl_that_cannot_be_had_is_found(
    mode: str, verdict: str, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """With what becomes of base stations; and the CA whose status nobody tells then."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(
        config,
        'anchors_paths = ["acme/root.pem"]',
        'anchors_paths = ["acme/root.pem"]\nintermediates_paths = ["acme/sub.pem"]',
    )
    moment = datetime.now(UTC) - timedelta(minutes=1)
    (tmp_path / "root.crl").write_bytes(make_crl(vendor_pki.root, this_update=moment))
    config.write_text(
        f'{config.read_text()}\n[vendors.acme.revocation]\nmode = "{mode}"\n'
        'crl_paths = ["root.crl"]\ncrl_urls = ["http://127.0.0.1:1/sub.crl"]\n'
    )
    found = [row for row in rows(doctor(config, "--json")) if row["tried"].startswith("revocation")]
    well, away, ca = found
    assert {row["subject"] for row in found} == {"vendor acme"}
    assert (well["verdict"], well["came_back"][:12]) == ("ok", "fresh, until")
    assert (away["verdict"], away["tried"]) == (
        verdict,
        "revocation: CRL http://127.0.0.1:1/sub.crl",
    )
    assert away["came_back"].startswith("failed: ")
    assert mode in away["cause"]
    assert away["setting"].startswith("vendors.acme.revocation.crl_urls")
    assert (ca["verdict"], ca["came_back"]) == ("ok", "not revoked, as far as anybody says")
    (tmp_path / "root.crl").unlink()
    (tmp_path / "root.crl").write_bytes(
        make_crl(vendor_pki.root, [vendor_pki.sub.certificate], this_update=moment)
    )
    ca = row_of(config, "revocation of")
    assert ca["verdict"] == "fault"
    assert "is revoked: the CRL" in ca["came_back"]


def row_of(config: Path, tried: str) -> dict[str, str]:
    (found,) = (row for row in rows(doctor(config, "--json")) if row["tried"].startswith(tried))
    return found


def test_a_ca_whose_status_nobody_tells_is_found(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """In mode hard it stops every renewal; listed by the operator it stops none."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    key: Any = load_pem_private_key((tmp_path / "ca" / "issuing.key").read_bytes(), None)
    issuing = Authority(load_certificate(tmp_path / "operator" / "issuing.pem"), key)
    moment = datetime.now(UTC) - timedelta(minutes=1)
    (tmp_path / "issuing.crl").write_bytes(make_crl(issuing, this_update=moment))
    config.write_text(
        f'{config.read_text()}\n[operator.revocation]\nmode = "hard"\ncrl_paths = ["issuing.crl"]\n'
    )
    assert row_of(config, "revocation of")["verdict"] == "ok"
    edit(config, 'intermediates_paths = ["operator/issuing.pem"]\n', "")
    found = row_of(config, "revocation of")
    assert found["verdict"] == "fault"
    assert found["setting"].startswith("list it in operator.intermediates_paths, or ")


def test_the_command_prints_a_table_and_ends_with_1(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """Nobody listens: the row says so, with cause and setting."""
    config = make_setup(
        tmp_path, vendors={"acme": vendor_pki}, upstream=http_upstream("http://127.0.0.1:1/cmp")
    )
    result = doctor(config, "--quiet")
    assert result.exit_code == 1
    header, *others, row, counts = result.stdout.splitlines()
    assert all(line.startswith("warning\tsafety\t") for line in others)
    assert header.split("\t") == [
        "Verdict", "Subject", "Tried", "Came back", "Likely cause", "Change"
    ]  # fmt: skip
    assert row.split("\t")[:3] == ["fault", "upstream bundled", "TCP: 127.0.0.1:1"]
    assert counts.endswith(f"{len(others)} warning, 1 fault.")


def of_ledger(result: testing.Result) -> list[dict[str, str]]:
    """What the doctor says of the ledger."""
    return [row for row in rows(result) if row["subject"] == "ledger"]


def test_the_ledger_s_files_and_checkpoints_are_looked_at(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Who may read it, and what is known of it outside; what others may read, or was changed, is a fault."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    ledger, known = tmp_path / "ca" / "ledger.sqlite", tmp_path / "ca" / "checkpoints"
    files, checkpoints = of_ledger(doctor(config, "--json"))
    assert (files["verdict"], files["came_back"]) == ("ok", "its owner")
    assert (checkpoints["verdict"], checkpoints["came_back"]) == (
        "ok",
        "no checkpoint yet: the CA writes one when it starts",
    )
    assert testing.CliRunner().invoke(app, ["ca", "verify", "--config", str(config)]).exit_code == 0
    _, checkpoints = of_ledger(doctor(config, "--json"))
    assert checkpoints["verdict"] == "ok"
    assert checkpoints["came_back"].startswith("1 checkpoint, the last of 20")
    ledger.chmod(0o640)
    known.write_bytes(known.read_bytes().replace(b"1", b"2"))
    files, checkpoints = of_ledger(doctor(config, "--json"))
    assert (files["verdict"], files["setting"]) == ("fault", "ca.ledger_path")
    assert "0640" in files["came_back"]
    assert checkpoints["verdict"] == "fault"


def test_where_no_checkpoint_can_be_written_is_told(
    tmp_path: Path, vendor_pki: VendorPKI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a read-only file system the service would go on without any; root may write everywhere else."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    may = os.access
    monkeypatch.setattr(
        os, "access", lambda path, *args, **how: path != tmp_path / "ca" and may(path, *args, **how)
    )
    _, checkpoints = of_ledger(doctor(config, "--json"))
    assert (checkpoints["verdict"], checkpoints["setting"]) == (
        "warning",
        "ca.checkpoints_path: a file that the CA may write",
    )


def test_a_checkpoint_of_tomorrow_is_told(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """The clock was ahead when it was written, or is behind now; no service that was started since can know."""
    path = make_setup(tmp_path, vendors={"acme": vendor_pki})
    assert testing.CliRunner().invoke(app, ["ca", "verify", "--config", str(path)]).exit_code == 0
    config = load(path)
    assert config.ca is not None
    for ahead, verdict in ((timedelta(), Verdict.ok), (timedelta(days=1), Verdict.warning)):
        _, found = asyncio.run(examine_ledger(config.ca, now() - ahead))
        assert found.verdict is verdict
        assert ("still to come" in found.came_back) == bool(ahead)


def of_a_ledger_at(path: Path, url: str) -> CAConfig:
    """Move the ledger of a setup to a URL, and return what is configured of the CA."""
    keep_in_file(path, 'ledger_path = "ca/ledger.sqlite"', "ledger_url_path", url)
    config = load(path, check_files=False)
    assert config.ca is not None
    return config.ca


@pytest.mark.parametrize("port", ["1", "port"])
async def test_a_ledger_that_is_away_is_found(
    tmp_path: Path, vendor_pki: VendorPKI, port: str
) -> None:
    """A server that is not there, and a URL that is none; without the password."""
    path = make_setup(tmp_path, vendors={"acme": vendor_pki})
    config = of_a_ledger_at(path, f"postgresql://ca:secret@127.0.0.1:{port}/ledger")
    found, *_ = await examine_ledger(config, now())
    assert (found.verdict, found.setting.partition(";")[0]) == (
        Verdict.fault,
        "ca.ledger_url_path",
    )
    assert "secret" not in repr(found)


async def test_a_ledger_on_postgresql_is_looked_at(
    tmp_path: Path, vendor_pki: VendorPKI, postgres_url: str
) -> None:
    """What its server speaks; one that has no tables yet is a fault."""
    path = make_setup(tmp_path, vendors={"acme": vendor_pki})
    config = of_a_ledger_at(path, postgres_url)
    found, *_ = await examine_ledger(config, now())
    assert found.verdict is Verdict.fault
    assert "ca migrate" in f"{found.cause} {found.came_back}"
    ledger = open_ledger(postgres_url)
    await ledger.migrate()
    found, *_ = await examine_ledger(config, now())
    assert found.verdict is Verdict.ok
    assert "no TLS; sslmode" in found.came_back


async def test_a_ledger_on_postgresql_that_cannot_be_used(
    tmp_path: Path, vendor_pki: VendorPKI, postgres_server: PostgresServer, postgres_url: str
) -> None:
    """A standby, or one that was made read-only, is read as ever; and a role may have no connection left."""
    path = make_setup(tmp_path, vendors={"acme": vendor_pki})
    await open_ledger(postgres_url).migrate()
    name = postgres_url.rpartition("/")[2]
    few = f"few:x@127.0.0.1:{postgres_server.port}"
    postgres_server.execute("CREATE ROLE few LOGIN PASSWORD 'x' CONNECTION LIMIT 0")
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        config = of_a_ledger_at(path, postgres_url)
        read_only, *_ = await examine_ledger(config, now())
        path.with_name("url").write_text(f"postgresql://{few}/{name}")
        full, *_ = await examine_ledger(config, now())
    finally:
        postgres_server.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        postgres_server.execute("DROP ROLE few")
    assert "read-only" in read_only.came_back
    assert "standby" in read_only.cause
    assert "too many connections" in full.came_back
    assert "CONNECTION LIMIT" in full.setting


def test_the_command_tells_of_files_that_others_may_read(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Where other commands would not begin, it says all there is to say."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    (tmp_path / "ra/ra.key").chmod(0o644)
    result = doctor(config, "--json", "--quiet")
    assert result.exit_code == 1
    assert [row["setting"] for row in troubles(result)] == ["ra.key_path"]
    assert [
        "0644: others than its owner" in row["came_back"]
        for row in rows(result)
        if row["subject"] == "safety"
    ]


async def test_the_openssl_mock_server_is_examined_as_far_as_it_goes(
    tmp_path: Path, operator_pki: OperatorPKI, vendor_pki: VendorPKI
) -> None:
    """It verifies proofs, and trusts the RA; what it says to an rr is its own."""
    site = Site(tmp_path, operator_pki, make_ejbca(operator_pki))
    site.write(vendor_pki)
    site.dialect = 'dialect = "openssl-mock"'
    with OpensslMockCA(
        tmp_path,
        signer=operator_pki.cmp_signer,
        trusted=[operator_pki.root.certificate],
        untrusted=[operator_pki.issuing.certificate],
        response_certificate=operator_pki.device().certificate,
    ) as ca:
        site.url = ca.url
        results = await site.results()
    assert unwell(results) == []
    assert [of_probe(results, name).verdict for name in ("ir", "kur", "rr")] == [Verdict.ok] * 3


# --- the table of causes --------------------------------------------------------------------------------------

BAD_REQUEST = PKIFailureInfo.badRequest
TEXTS: list[tuple[str, PKIFailureInfo | None, BodyType, str]] = [
    ("... no PKI protection is found", BAD_REQUEST, BodyType.ir, "ra.certificate_path"),
    (
        "Error while reading a certificate from the extraCert field",
        BAD_REQUEST,
        BodyType.ir,
        "first",
    ),
    ("could not be found in the database", BAD_REQUEST, BodyType.ir, "web.reqcertindb"),
    ("certificate in extraCert is revoked", BAD_REQUEST, BodyType.kur, "a new certificate"),
    ("certificate in extraCert is not active", BAD_REQUEST, BodyType.ir, "a new certificate"),
    ("The certificate has expired", BAD_REQUEST, BodyType.ir, "clock"),
    ("The certificate is not yet valid", BAD_REQUEST, BodyType.ir, "clock"),
    ("certificate chain is invalid", BAD_REQUEST, BodyType.ir, "authenticationparameters"),
    ("is not an authorized administrator", BAD_REQUEST, BodyType.kur, "create_end_entity"),
    ("not issued by the configured Vendor CAs", BAD_REQUEST, BodyType.ir, "vendorcertificatemode"),
    ("Failed to verify the signature", BAD_REQUEST, BodyType.ir, "without PSS"),
    ("does not belong to user 'x'", BAD_REQUEST, BodyType.ir, "operationmode = ra"),
    ("Omitting some verifications", BAD_REQUEST, BodyType.ir, "omitverifications = false"),
    ("authentication module is not configured", BAD_REQUEST, BodyType.kur, "EndEntityCertificate"),
    ("cannot find a SubjectDN", BAD_REQUEST, BodyType.kur, '"reprotect"'),
    ("unable to perform key update", BAD_REQUEST, BodyType.kur, "first enrolment"),
    ("the certificate is expired", BAD_REQUEST, BodyType.kur, "first enrolment"),
    ("non-existing end entity", BAD_REQUEST, BodyType.kur, "issuer"),
    ("user not found", PKIFailureInfo.badMessageCheck, BodyType.kur, "issuer"),
    (
        "KeyUpdateRequest is the same",
        PKIFailureInfo.badMessageCheck,
        BodyType.kur,
        "allowupdatewithsamekey",
    ),
    ("Got request with status GENERATED", None, BodyType.kur, "allowautomatickeyupdate = true"),
    ("Got request with status GENERATED", None, BodyType.ir, "NEW"),
    ("DN Name can not be null", PKIFailureInfo.incorrectData, BodyType.ir, "subject_template"),
    ("wrong number of DNSNAME", PKIFailureInfo.incorrectData, BodyType.ir, "end entity profile"),
    ("CA X does not exist", PKIFailureInfo.incorrectData, BodyType.ir, "ra.caname"),
    ("profile missing", PKIFailureInfo.systemUnavail, BodyType.ir, "ra.certificateprofile"),
    ("no CA", PKIFailureInfo.wrongAuthority, BodyType.ir, "defaultca"),
    ("approval is needed", PKIFailureInfo.notAuthorized, BodyType.ir, "approvals"),
    ("proof", PKIFailureInfo.badPOP, BodyType.cr, "allowraverifypopo = true"),
    ("not a valid CMP message", BAD_REQUEST, BodyType.ir, "proxy"),
    ("could not verify the RA", BAD_REQUEST, BodyType.ir, "racertificatepath"),
    ("NestedMessageContent failed", BAD_REQUEST, BodyType.ir, "racertificatepath"),
    ("unreasonable level of nesting", BAD_REQUEST, BodyType.ir, "upstreams.{name}.url"),
    ("CMP module configuration error", None, BodyType.ir, "authenticationmodule ="),
    ("cannot be combined with RA mode", None, BodyType.ir, "vendorcertificatemode = false"),
    ("HTTP 404 without a CMP message: ''", None, BodyType.ir, "alias"),
    ("HTTP 405 without a CMP message: ''", None, BodyType.ir, "url"),
    ("HTTP 400 without a CMP message: ''", None, BodyType.ir, "shorter alias"),
    ("HTTP 500 without a CMP message: ''", None, BodyType.ir, "log of the CA"),
    ("HTTP 503 without a CMP message: '<h1>'", None, BodyType.ir, "rate limits"),
    ("HTTP 200 without a CMP message: '<html>'", None, BodyType.ir, "upstreams.{name}.url"),
    ("cannot connect to ca:80: Connection refused", None, BodyType.ir, "firewalls on the way"),
    ("no answer in time from http://ca", None, BodyType.ir, "deadline_seconds"),
    ("", PKIFailureInfo.signerNotTrusted, BodyType.ir, "ra-gateway ca ra add"),
    ("", PKIFailureInfo.notAuthorized, BodyType.ir, "ra-gateway ca ra show"),
    ("", PKIFailureInfo.notAuthorized, BodyType.rr, "revoke_end_entity"),
    ("", PKIFailureInfo.badTime, BodyType.ir, "NTP"),
    ("", PKIFailureInfo.wrongIntegrity, BodyType.ir, "by certificate"),
    ("", PKIFailureInfo.badMessageCheck, BodyType.rr, "ra.certificate_path"),
]


@pytest.mark.parametrize("text, fail_info, request_type, setting", TEXTS)
def test_what_cas_say_is_explained(
    text: str, fail_info: PKIFailureInfo | None, request_type: BodyType, setting: str
) -> None:
    """Every text that is known leads to its own setting."""
    bits = () if fail_info is None else (fail_info,)
    assert setting in explain(text, bits, request_type).setting


def test_every_row_is_reached() -> None:
    """No row stands behind one that takes everything from it: it explains what it was written for."""
    unreached = [
        row
        for row in known_errors()
        if explain(
            row.text,
            () if row.fail_info is None else (row.fail_info,),
            min(row.requests, default=BodyType.ir),
        )
        is not row
    ]
    assert unreached == []


def test_a_text_out_of_a_log_is_explained() -> None:
    """With a text that could be of several requests all rows are printed; of an unknown one it says so."""
    result = doctor(
        Path("none.toml"), "--explain", "CA ejbca answered: Got request with status GENERATED"
    )
    assert result.exit_code == 0
    assert [line.split("\t")[1] for line in result.stdout.splitlines()[1:]] == [
        "EJBCA alias: allowautomatickeyupdate = true",
        "EJBCA alias: operationmode = ra; or reset the end entity to NEW",
    ]
    assert doctor(Path("none.toml"), "--explain", "hello").exit_code == 1


def test_the_document_has_every_row() -> None:
    """The table in docs/doctor.md is the one that is searched."""
    document = (Path(__file__).parents[2] / "docs/doctor.md").read_text()
    expected = [_documented(row) for row in known_errors()]
    found = [line for line in document.splitlines() if line.startswith("| ") and line in expected]
    missing = [line for line in expected if line not in found]
    assert missing == [], "put these lines into docs/doctor.md:\n" + "\n".join(missing)


def _documented(row: Cause) -> str:
    marks = [f"`{row.text}`"] if row.text else []
    marks += [row.fail_info.name] if row.fail_info is not None else []
    marks += [f"({', '.join(sorted(item.name for item in row.requests))})"] if row.requests else []
    setting = row.setting.replace("|", "\\|").replace("{name}", "NAME")
    setting = setting.replace("<", "\\<")
    return f"| {' '.join(marks)} | {row.cause} | {setting} |"
