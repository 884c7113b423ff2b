"""Debian's `openssl cmp`, which nobody here wrote, enrols and renews against real gateway processes.

It always gets the operator root alone as its trust (`-trusted`), never the RA's certificate: what
else it needs to verify answers and new certificates has to come in extraCerts.
"""

from __future__ import annotations

import secrets
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.client import post
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions, Send, operator_trust
from ra_gateway.keys import load_certificates
from tests.support.answers import fail_names
from tests.support.asserts import signed_again
from tests.support.credentials import cmp_credential
from tests.support.openssl import (
    Command,
    OpensslMockCA,
    Result,
    load_certificate,
    openssl_cmp,
    openssl_path,
)
from tests.support.openssl_station import (
    ENROLMENT,
    SAN,
    SUBJECT,
    SUBJECT_RFC4514,
    Site,
    Station,
    dialogue,
    load_all,
    load_issuing_ca,
)
from tests.support.pki import (
    KeyKind,
    PrivateKey,
    VendorPKI,
    make_key,
    make_root,
    make_vendor_pki,
    write_certificates,
    write_key,
)
from tests.support.processes import CAProcess, GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.setups import edit, http_upstream, let_vendors, make_setup, set_upstream

RENEWAL: Final = ["KUR", "KUP", "CERTCONF", "PKICONF"]
KEY_KINDS: Final[tuple[KeyKind, ...]] = ("p256", "rsa2048")
VENDOR_OF: Final = {"p256": "acme", "rsa2048": "rivet"}
"""The vendor that uses this kind of key throughout."""


REQUIREMENT: Final = pytest.mark.requirement


# --- a base station made of files -----------------------------------------------------------------


def assert_certified(station: Station, result: Result, messages: list[str], key: Any) -> None:
    """Assert that an operation succeeded, and that its certificate is what was asked for.

    The path is verified by `openssl verify` with nothing but the root and what came in extraCerts.
    """
    result.check()
    assert dialogue(result) == messages
    certificate = station.certificate
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert certificate.subject.rfc4514_string() == SUBJECT_RFC4514
    assert [str(name.value) for name in san] == list(SAN)
    assert certificate.public_key() == key.public_key()
    verified = subprocess.run(
        [
            *(openssl_path(), "verify", "-x509_strict", "-CAfile", str(station.site.root)),
            *("-untrusted", str(station.directory / "received.pem")),
            str(station.directory / "new.pem"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr


def assert_refused(station: Station, result: Result, fail_info: str) -> None:
    """Assert that openssl was told this failInfo, that the log has it, and that nothing was issued."""
    event = station.site.gateway.handled[-1]
    assert (result.returncode, set(result.fail_info)) == (1, {fail_info}), result.output
    assert (event["outcome"], event["fail_info"]) == ("refused", fail_info)
    assert event["rule"]
    assert event["detail"]
    assert event["detail"] not in result.output
    assert not (station.directory / "new.pem").exists()


# --- who is there ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vendors(vendor_pki: VendorPKI) -> dict[str, VendorPKI]:
    """One vendor with P-256, one with RSA: root, sub-CA and base stations alike."""
    return {"acme": vendor_pki, "rivet": make_vendor_pki("Rivet Radio", "rsa2048")}


SetUp = Callable[..., Path]


@pytest.fixture(scope="module")
def set_up(tmp_path_factory: pytest.TempPathFactory, vendors: Mapping[str, VendorPKI]) -> SetUp:
    """Sets a gateway up in a directory of its own, and returns the configuration in it."""

    def make(name: str, **options: Any) -> Path:
        return make_setup(tmp_path_factory.mktemp(name), vendors=vendors, **options)

    return make


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((store, upstream), id=f"{store}-{upstream}")
        for store in ("memory", "redis")
        for upstream in ("bundled", "http")
    ],
)
def site(
    request: pytest.FixtureRequest, redis_server: RedisServer, set_up: SetUp
) -> Iterator[Site]:
    """A gateway with each store, and the bundled CA in its process or in one of its own."""
    store, upstream = request.param
    redis_url = redis_server.url if store == "redis" else None
    config = set_up("site", redis_url=redis_url)
    with ExitStack() as processes:
        if upstream == "http":
            ca = processes.enter_context(CAProcess(config))
            set_upstream(config, http_upstream(ca.url, replays_repeats=True))
        yield Site(config.parent, processes.enter_context(GatewayProcess(config)))


def served(config: Path) -> Iterator[Site]:
    """Yield the site of a configuration while its gateway runs."""
    with GatewayProcess(config) as gateway:
        yield Site(config.parent, gateway)


@pytest.fixture(scope="module")
def default_site(set_up: SetUp) -> Iterator[Site]:
    """A gateway in one process, as `ra-gateway init` sets it up, with more paths."""
    config = set_up("default-site")
    edit(
        config,
        'paths = ["/.well-known/cmp", "/pkix"]',
        'paths = ["/.well-known/cmp", "/pkix", "/ejbca/publicweb/cmp/ra"]\nprofiles = ["ran"]',
    )
    yield from served(config)


@pytest.fixture(scope="module")
def generous_site(set_up: SetUp) -> Iterator[Site]:
    """A gateway that relays implicitConfirm, knows its vendor's sub-CA, and sends the root as caPubs.

    Its operator uses RSA throughout.
    """
    config = set_up("generous-site", implicit_confirm="relay", key_kind="rsa2048")
    edit(config, 'implicit_confirm = "relay"', 'implicit_confirm = "relay"\nca_pubs = "root"')
    edit(
        config,
        'anchors_paths = ["acme/root.pem"]',
        'anchors_paths = ["acme/root.pem"]\nintermediates_paths = ["acme/sub.pem"]',
    )
    yield from served(config)


@pytest.fixture(
    scope="module",
    params=[pytest.param(upstream, id=upstream) for upstream in ("bundled", "http")],
)
def whole_site(request: pytest.FixtureRequest, set_up: SetUp) -> Iterator[Site]:
    """A gateway that takes every operation, with the bundled CA in its process or in one of its own.

    It tells the CA certificates itself, and leaves the other questions to the CA.
    """
    config = set_up("whole-site")
    let_vendors(config, "ir", "p10cr")
    taken = 'body_types = ["ir", "cr", "kur", "p10cr", "rr", "genm"]'
    edit(config, 'upstream = "bundled"', f'upstream = "bundled"\n{taken}')
    config.write_text(config.read_text() + '\n[endpoints.ran.genm]\nca_certs = "local"\n')
    with ExitStack() as processes:
        if request.param == "http":
            ca = processes.enter_context(CAProcess(config))
            set_upstream(config, http_upstream(ca.url, replays_repeats=True))
        yield Site(config.parent, processes.enter_context(GatewayProcess(config)))


@pytest.fixture
def station(tmp_path: Path, default_site: Site, vendors: Mapping[str, VendorPKI]) -> Station:
    """A base station as it leaves the factory, at the default site."""
    return Station(tmp_path, default_site, vendors["acme"].device())


@pytest.fixture
def running(tmp_path: Path, default_site: Site) -> Station:
    """A base station that has an operator certificate already."""
    names = [f"dns:{SAN[0]}", f"ip:{SAN[1]}"]
    return Station(tmp_path, default_site, default_site.issuing.issue(SUBJECT_RFC4514, san=names))


# --- enrolment and renewal ------------------------------------------------------------------------


@pytest.mark.requirement(24, 73, 82, 88, 97, 100, 139, 140, 144, "T46", "T48", "T51")
@pytest.mark.parametrize("kind", KEY_KINDS)
def test_openssl_enrols_and_renews(
    tmp_path: Path, site: Site, vendors: Mapping[str, VendorPKI], kind: KeyKind
) -> None:
    """ir and kur, each confirmed by a pkiConf without certificates: the names asked for, a new key each time, a path
    to the root, which comes with the ip.
    """
    station = Station(tmp_path, site, vendors[VENDOR_OF[kind]].device(key=kind))
    seen, first_key, second_key = len(site.gateway.handled), make_key(kind), make_key(kind)

    assert_certified(station, station.ask("ir", new_key=first_key), ENROLMENT, first_key)
    first = station.certificate
    assert load_certificate(site.root) in station.received

    station = station.enrolled(first_key)
    assert_certified(station, station.ask("kur", new_key=second_key), RENEWAL, second_key)
    assert station.certificate.serial_number != first.serial_number
    assert load_certificate(site.root) not in station.received

    told = [(event["event"], event["outcome"]) for event in site.gateway.handled[seen:]]
    assert told == [
        ("ir", "issued"),
        ("certConf", "confirmed"),
        ("kur", "issued"),
        ("certConf", "confirmed"),
    ]


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("store", ["memory", "redis"])
def test_openssl_enrols_and_renews_at_the_openssl_mock_ca(
    tmp_path: Path,
    redis_server: RedisServer,
    vendors: Mapping[str, VendorPKI],
    kind: KeyKind,
    store: str,
) -> None:
    """A CA nobody here wrote is an upstream by configuration alone: its signer and issuer are pinned."""
    redis_url = redis_server.url if store == "redis" else None
    config = make_setup(tmp_path, vendors=vendors, redis_url=redis_url)
    issuing = load_issuing_ca(tmp_path)
    root = load_certificate(tmp_path / "operator" / "root.pem")
    # The mock returns one certificate, and takes only a kur whose oldCertID names that one. For a
    # renewal with a new key it therefore needs a second one of the same issuer and serial number.
    names = [f"dns:{SAN[0]}", f"ip:{SAN[1]}"]
    first = issuing.issue(SUBJECT_RFC4514, kind, san=names, serial_number=7)
    second = issuing.issue(SUBJECT_RFC4514, kind, san=names, serial_number=7)
    signer = make_root("Mock Root CA", kind).issue("Mock CA", kind)
    signer_path = write_certificates(tmp_path / "mock.pem", signer.certificate)

    with ExitStack() as processes:
        mocks = []
        for name, credential in (("mock-ir", first), ("mock-kur", second)):
            (tmp_path / name).mkdir()
            mock = OpensslMockCA(
                tmp_path / name,
                signer=signer,
                trusted=[root],
                response_certificate=credential.certificate,
                response_extra_certs=[issuing.certificate],
            )
            mocks.append(processes.enter_context(mock))
        upstreams = [
            http_upstream(
                mock.url,
                ca_certificate_paths=[signer_path],
                issuing_ca_paths=[tmp_path / "operator" / "issuing.pem"],
            )
            for mock in mocks
        ]
        set_upstream(config, upstreams[0])
        config.write_text(
            config.read_text()
            + f"\n[upstreams.renewal]\n{upstreams[1]}"
            + '\n[endpoints.renewal]\npaths = ["/renewal"]\nupstream = "renewal"\n'
        )
        site = Site(tmp_path, processes.enter_context(GatewayProcess(config)))
        (tmp_path / "station").mkdir()
        station = Station(tmp_path / "station", site, vendors[VENDOR_OF[kind]].device(key=kind))

        enrolment = station.ask("ir", new_key=first.private_key)
        assert_certified(station, enrolment, ENROLMENT, first.private_key)
        assert station.certificate == first.certificate

        station = station.enrolled(first.private_key)
        renewal = station.ask("kur", new_key=second.private_key, path="/renewal")
        assert_certified(station, renewal, RENEWAL, second.private_key)
        assert station.certificate == second.certificate


@pytest.mark.requirement(82, 99, 143)
def test_implicit_confirmation_is_relayed_where_the_endpoint_does(
    tmp_path: Path, generous_site: Site, vendors: Mapping[str, VendorPKI]
) -> None:
    """Two messages for an ir, two for a kur; and who does not ask for it confirms."""
    station = Station(tmp_path, generous_site, vendors["acme"].device())
    first_key, second_key, third_key = make_key("p256"), make_key("p256"), make_key("p256")
    enrolment = station.ask("ir", "-implicit_confirm", new_key=first_key)
    assert_certified(station, enrolment, ENROLMENT[:2], first_key)
    station = station.enrolled(first_key)
    renewal = station.ask("kur", "-implicit_confirm", new_key=second_key)
    assert_certified(station, renewal, RENEWAL[:2], second_key)
    station = station.enrolled(second_key)
    assert_certified(station, station.ask("kur", new_key=third_key), RENEWAL, third_key)


@pytest.mark.requirement(98, 143)
def test_implicit_confirmation_is_not_granted_by_default(station: Station) -> None:
    """Under the 3GPP profile openssl asks, is not granted it, and confirms."""
    key = make_key("p256")
    assert_certified(station, station.ask("ir", "-implicit_confirm", new_key=key), ENROLMENT, key)


def test_a_configured_sub_ca_need_not_be_sent(
    tmp_path: Path, generous_site: Site, vendors: Mapping[str, VendorPKI]
) -> None:
    """A base station that sends its own certificate alone is accepted; caPubs bring it the root."""
    station = Station(tmp_path, generous_site, vendors["acme"].device(), extracerts=())
    key, ca_pubs = make_key("p256"), tmp_path / "ca-pubs.pem"
    result = station.ask("ir", "-cacertsout", str(ca_pubs), new_key=key)
    assert_certified(station, result, ENROLMENT, key)
    assert load_all(ca_pubs) == [load_certificate(generous_site.root)]


@pytest.mark.requirement(139)
def test_the_order_of_the_vendor_chain_does_not_matter(
    station: Station, vendors: Mapping[str, VendorPKI]
) -> None:
    """Root before sub-CA, and a certificate that has nothing to do with it in between."""
    acme, other = vendors["acme"], vendors["rivet"]
    station.extracerts = [a.certificate for a in (acme.root, other.sub, acme.sub)]
    key = make_key("p256")
    assert_certified(station, station.ask("ir", new_key=key), ENROLMENT, key)


def test_the_pre_provisioned_key_can_be_enrolled(station: Station) -> None:
    """TS 33.310 9.2: a base station may keep the key it left the factory with."""
    assert_certified(station, station.ask("ir"), ENROLMENT, station.credential.private_key)


@pytest.mark.requirement(142, "T31")
def test_a_further_certificate_is_refused_by_default(running: Station) -> None:
    """TS 33.310 9.5.1 has enrolment and key update alone; `body_types` lets cr in."""
    assert_refused(running, running.ask("cr", new_key=make_key("p384")), "badRequest")


@pytest.mark.requirement(101)
def test_a_certificate_that_openssl_rejects_is_not_confirmed(
    station: Station, foreign_vendor_pki: VendorPKI
) -> None:
    """A client that trusts another root for new certificates says so in certConf; pkiConf ends it."""
    foreign = write_certificates(station.directory / "x.pem", foreign_vendor_pki.root.certificate)
    result = station.ask("ir", "-out_trusted", str(foreign), new_key=make_key("p256"))
    assert (result.returncode, dialogue(result)) == (1, ENROLMENT), result.output
    assert station.site.gateway.handled[-1]["outcome"] == "rejected"


@pytest.mark.requirement(149)
@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/cmp/",
        "/.well-known/cmp/initialization",
        "/.well-known/cmp/initialization/",
        "/.well-known/cmp/p/ran",
        "/.well-known/cmp/p/ran/initialization",
        "/ejbca/publicweb/cmp/ra",
        "/ejbca/publicweb/cmp/ra/",
        "/pkix",
        "/pkix/",
    ],
)
def test_every_path_of_the_endpoint_serves(station: Station, path: str) -> None:
    """Operation labels, profiles, legacy paths and slashes at the end lead to the same service."""
    key = make_key("p256")
    assert_certified(station, station.ask("ir", new_key=key, path=path), ENROLMENT, key)


@pytest.mark.parametrize("keep_alive", ["0", "2"])
def test_connections_may_be_kept_or_closed(station: Station, keep_alive: str) -> None:
    """openssl closes after each message (HTTP/1.0), or insists on a persistent connection."""
    key = make_key("p256")
    result = station.ask("ir", "-keep_alive", keep_alive, new_key=key)
    assert_certified(station, result, ENROLMENT, key)


def test_a_path_nobody_serves_is_no_cmp_server(station: Station) -> None:
    """openssl gets 404, and says so."""
    result = station.ask(path="/elsewhere")
    assert result.returncode == 1
    assert "404" in result.output


# --- further operations ---------------------------------------------------------------------------


def write_csr(
    station: Station, key: Any, subject: str = SUBJECT_RFC4514, *names: x509.GeneralName
) -> str:
    """Write a PKCS#10 and return its path."""
    csr = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string(subject))
    if names:
        csr = csr.add_extension(x509.SubjectAlternativeName(names), critical=False)
    path = station.directory / "csr.pem"
    path.write_bytes(csr.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return str(path)


OWN_NAMES: Final = (x509.DNSName(SAN[0]), x509.IPAddress(ip_address(SAN[1])))


@pytest.fixture
def enrolled(tmp_path: Path, whole_site: Site, vendors: Mapping[str, VendorPKI]) -> Station:
    """A base station that the whole site has enrolled by p10cr, which is a test in itself."""
    station = Station(tmp_path, whole_site, vendors["acme"].device())
    key = make_key("p256")
    csr = write_csr(station, key, SUBJECT_RFC4514, *OWN_NAMES)
    result = station.ask("p10cr", "-csr", csr, new_key=key)
    assert_certified(station, result, ["P10CR", "CP", *ENROLMENT[2:]], key)
    return station.enrolled(key)


@pytest.mark.requirement(65, 73, 107)
def test_a_pkcs10_is_certified_for_either_certificate(enrolled: Station) -> None:
    """A vendor's base station enrols by p10cr, and gets a further certificate as an operator's."""
    key = make_key("p384")
    csr = write_csr(enrolled, key, SUBJECT_RFC4514, *OWN_NAMES)
    result = enrolled.ask("p10cr", "-csr", csr, new_key=key)
    assert_certified(enrolled, result, ["P10CR", "CP", *ENROLMENT[2:]], key)
    events = [(event["event"], event["outcome"]) for event in enrolled.site.gateway.handled[-4:]]
    assert events == [("p10cr", "issued"), ("certConf", "confirmed")] * 2


@pytest.mark.requirement(67)
def test_a_pkcs10_for_another_name_is_refused(enrolled: Station) -> None:
    """An operator's base station gets its own names only."""
    (enrolled.directory / "new.pem").unlink()
    key = make_key("p256")
    csr = write_csr(enrolled, key, "CN=enb-8")
    assert_refused(enrolled, enrolled.ask("p10cr", "-csr", csr, new_key=key), "notAuthorized")


@pytest.mark.requirement(67)
def test_a_further_certificate_by_cr(enrolled: Station) -> None:
    """cr, cp, certConf, pkiConf."""
    key = make_key("p256")
    assert_certified(enrolled, enrolled.ask("cr", new_key=key), ["CR", "CP", *ENROLMENT[2:]], key)


@pytest.mark.requirement(129, 130)
def test_a_base_station_has_its_certificate_revoked(enrolled: Station) -> None:
    """Its own: rr, rp; the second time the CA says certRevoked. Another's: notAuthorized."""
    other = enrolled.site.issuing.issue("CN=enb-8")
    cert, _ = other.write(enrolled.directory, "other")
    foreign = enrolled.ask("rr", "-oldcert", str(cert), "-revreason", "1")
    assert (foreign.returncode, set(foreign.fail_info)) == (1, {"notAuthorized"}), foreign.output

    own = str(enrolled.directory / "own.pem")
    options = ("-oldcert", own, "-revreason", "1")
    first = enrolled.ask("rr", *options).check()
    assert dialogue(first) == ["RR", "RP"]
    with closing(sqlite3.connect(enrolled.site.directory / "ca" / "ledger.sqlite")) as ledger:
        status = ledger.execute(
            "SELECT status FROM certificates WHERE serial = ?",
            (f"{enrolled.credential.certificate.serial_number:x}",),
        ).fetchone()
    assert status == ("revoked",)

    second = enrolled.ask("rr", *options)
    assert (second.returncode, set(second.fail_info)) == (1, {"certRevoked"}), second.output
    outcomes = [event["outcome"] for event in enrolled.site.gateway.handled[-3:]]
    assert outcomes == ["refused", "revoked", "refused"]


@pytest.mark.requirement(133, 135, 138)
@pytest.mark.parametrize("info_type", ["caCerts", "certReqTemplate"])
def test_a_base_station_asks(enrolled: Station, info_type: str) -> None:
    """genm, genp: answered by the RA (caCerts) or by the CA behind it."""
    result = enrolled.ask("genm", "-infotype", info_type).check()
    assert dialogue(result) == ["GENM", "GENP"]
    event = enrolled.site.gateway.handled[-1]
    assert (event["event"], event["outcome"]) == ("genm", "informed")


@pytest.mark.requirement(80, 97)
def test_every_answer_has_the_chain_of_its_signer_once(
    tmp_path: Path, whole_site: Site, vendors: Mapping[str, VendorPKI]
) -> None:
    """`init` writes the issuing CA into the RA's file and beside it; ip, genp, rp and refusals have it once.

    TS 33.310 has none in pkiConf.
    """
    directory = whole_site.directory
    ra, issuing = load_all(directory / "ra" / "ra.pem")[0], whole_site.issuing.certificate
    root = load_certificate(whole_site.root)
    station = Station(tmp_path, whole_site, vendors["acme"].device())

    def answers(*names: str) -> list[list[x509.Certificate]]:
        ders = ((tmp_path / name).read_bytes() for name in names)
        return [
            [x509.load_der_x509_certificate(item) for item in PKIMessage.from_der(der).extra_certs]
            for der in ders
        ]

    def into(*names: str) -> tuple[str, str]:
        return "-rspout", " ".join(str(tmp_path / name) for name in names)

    key = make_key("p256")
    station.ask("ir", *into("ip", "pkiconf"), new_key=key).check()
    assert answers("ip", "pkiconf") == [[ra, issuing, root], []]
    refused = station.ask("ir", *into("rejection"), new_key=make_key("rsa1024"))
    assert refused.returncode == 1
    station = station.enrolled(key)
    station.ask("genm", "-infotype", "caCerts", *into("genp")).check()
    refused = station.ask("genm", "-infotype", "signKeyPairTypes", *into("error"))
    assert refused.returncode == 1
    own = str(tmp_path / "own.pem")
    station.ask("rr", "-oldcert", own, "-revreason", "1", *into("rp")).check()
    assert answers("rejection", "genp", "error", "rp") == [[ra, issuing]] * 4


@pytest.mark.requirement(138)
def test_a_question_that_nobody_knows(enrolled: Station) -> None:
    """The CA's badRequest reaches openssl."""
    result = enrolled.ask("genm", "-infotype", "signKeyPairTypes")
    assert (result.returncode, set(result.fail_info)) == (1, {"badRequest"}), result.output


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, fail_info",
    [
        pytest.param(("-popo", "-1"), "badPOP", id="no POP", marks=REQUIREMENT(53)),
        pytest.param(("-popo", "0"), "notAuthorized", id="raVerified", marks=REQUIREMENT(57)),
        pytest.param(("-digest", "sha1"), "badAlg", id="SHA-1", marks=REQUIREMENT(17, 146)),
        pytest.param(
            ("-unprotected_requests",), "badMessageCheck", id="unprotected", marks=REQUIREMENT(13)
        ),
        pytest.param(
            ("-ref", "enb", "-secret", "pass:correct-horse"),
            "wrongIntegrity",
            id="MAC",
            marks=REQUIREMENT(43, 142),
        ),
        pytest.param(("-cmd", "genm"), "badRequest", id="genm", marks=REQUIREMENT(9)),
    ],
)
@pytest.mark.requirement(113, 114, 150, 155, 160)
def test_a_bad_request_gets_its_fail_info(
    station: Station, options: tuple[str, ...], fail_info: str
) -> None:
    """openssl verifies the refusal's protection and prints the failInfo; the CA saw nothing."""
    before = station.site.issued_count
    assert_refused(station, station.ask("ir", *options, new_key=make_key("p256")), fail_info)
    assert station.site.issued_count == before


@pytest.mark.requirement(9, 142)
def test_a_pkcs10_request_is_refused(station: Station) -> None:
    """TS 33.310 has base stations ask in CRMF."""
    key = make_key("p256")
    result = station.ask("p10cr", "-csr", write_csr(station, key), new_key=key)
    assert_refused(station, result, "badRequest")


@pytest.mark.requirement(9, 142)
def test_a_revocation_request_is_refused(running: Station) -> None:
    """A base station does not revoke: the 3GPP profile has no rr."""
    own = str(running.directory / "own.pem")
    assert_refused(running, running.ask("ir", "-cmd", "rr", "-oldcert", own), "badRequest")


@pytest.mark.requirement(21, 24)
def test_a_foreign_vendor_is_not_trusted(
    station: Station, foreign_vendor_pki: VendorPKI, vendors: Mapping[str, VendorPKI]
) -> None:
    """Not even when it sends its own root along, or bears the name of one that is trusted."""
    namesake = make_vendor_pki(vendors["acme"].name)
    for stranger in (foreign_vendor_pki, namesake):
        station.credential = stranger.device()
        station.extracerts = [stranger.sub.certificate, stranger.root.certificate]
        assert_refused(station, station.ask(new_key=make_key("p256")), "signerNotTrusted")


@pytest.mark.requirement(22)
def test_a_signer_outside_its_validity_is_not_trusted(
    station: Station, vendors: Mapping[str, VendorPKI]
) -> None:
    """A vendor certificate that ended yesterday, and one that begins tomorrow."""
    day = timedelta(days=1)
    now = datetime.now(UTC)
    for start, end in ((now - 2 * day, now - day), (now + day, now + 2 * day)):
        station.credential = vendors["acme"].device(not_before=start, not_after=end)
        assert_refused(station, station.ask(new_key=make_key("p256")), "signerNotTrusted")


@pytest.mark.requirement(19)
def test_a_short_rsa_key_may_not_sign(station: Station, vendors: Mapping[str, VendorPKI]) -> None:
    """RSA with 1024 bits is refused for a vendor certificate."""
    station.credential = vendors["acme"].device(key="rsa1024")
    assert_refused(station, station.ask(new_key=make_key("p256")), "badAlg")


@pytest.mark.requirement(61)
def test_a_short_rsa_key_is_not_certified(station: Station) -> None:
    """RSA with 1024 bits is refused in a template."""
    assert_refused(station, station.ask(new_key=make_key("rsa1024")), "badCertTemplate")


@pytest.mark.requirement(71)
def test_a_vendor_certificate_cannot_renew(station: Station) -> None:
    """A kur is for operator certificates; a vendor's is not trusted there."""
    assert_refused(station, station.ask("kur", new_key=make_key("p256")), "signerNotTrusted")


@pytest.mark.requirement(69)
def test_an_expired_operator_certificate_cannot_renew(running: Station) -> None:
    """A base station that missed its renewal enrols again with its vendor certificate."""
    ended = datetime.now(UTC) - timedelta(minutes=1)
    running.credential = running.site.issuing.issue(SUBJECT_RFC4514, not_after=ended)
    assert_refused(running, running.ask("kur", new_key=make_key("p256")), "signerNotTrusted")


@pytest.mark.requirement(68)
def test_a_renewal_of_another_certificate_is_refused(running: Station) -> None:
    """oldCertID names a certificate that does not protect the kur."""
    other = running.site.issuing.issue(SUBJECT_RFC4514)
    cert, _ = other.write(running.directory, "other")
    result = running.ask("kur", "-oldcert", str(cert), new_key=make_key("p256"))
    assert_refused(running, result, "badCertId")


@pytest.mark.requirement(70)
def test_a_renewal_may_not_change_the_subject(running: Station) -> None:
    """A kur for another name is refused."""
    result = running.ask("kur", "-subject", "/CN=enb-8", new_key=make_key("p256"))
    assert_refused(running, result, "badCertTemplate")


# --- shared secrets -------------------------------------------------------------------------------

SHARED_SECRETS: Final = {
    "enb-7": "pass-of-enb-7-0123456789",
    "once": "pass-for-one-time-0123456789",
}


@pytest.fixture(scope="module")
def mac_site(set_up: SetUp) -> Iterator[Site]:
    """A gateway that takes ir, cr and p10cr under shared secrets, also with HMAC-SHA1."""
    config = set_up("mac-site")
    names = " ".join((f"dns:{SAN[0]}", f"ip:{SAN[1]}"))
    rows = ["reference,secret,subject,san,single_use,expires"]
    for reference, secret in SHARED_SECRETS.items():
        once = "true" if reference == "once" else "false"
        rows.append(f'{reference},{secret},"{SUBJECT_RFC4514}",{names},{once},2099-01-01T00:00:00Z')
    listed = config.parent / "secrets.csv"
    listed.write_text("\n".join(rows) + "\n")
    listed.chmod(0o600)
    taken = 'strictness = "lenient"\nbody_types = ["ir", "cr", "kur", "p10cr"]'
    edit(config, 'upstream = "bundled"', f'upstream = "bundled"\n{taken}')
    mac = 'secrets_path = "secrets.csv"\nused_path = "secrets.used"\nallow_weak_hmac = true'
    config.write_text(f"{config.read_text()}\n[endpoints.ran.mac]\n{mac}\n")
    yield from served(config)


def ask_by_secret(
    directory: Path,
    site: Site,
    command: Command,
    key: PrivateKey,
    *options: str,
    reference: str = "enb-7",
    secret: str | None = None,
) -> Result:
    """Run one operation of a base station that has a shared secret and the operator's root, no more."""
    write_key(directory / "new.key", key)
    return openssl_cmp(
        command,
        server=site.gateway.server,
        newkey=directory / "new.key",
        trusted=site.root,
        certout=directory / "new.pem",
        extra_args=[
            *("-ref", reference, "-secret", f"pass:{secret or SHARED_SECRETS[reference]}"),
            *("-subject", SUBJECT, "-extracertsout", str(directory / "received.pem")),
            *options,
        ],
    )


@pytest.mark.requirement(38, 44)
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-mac", "hmacWithSHA256"),
        ("-digest", "sha512", "-mac", "hmacWithSHA512"),
        ("-implicit_confirm",),
    ],
    ids=["as it comes", "HMAC-SHA256", "SHA-512", "implicit confirm denied"],
)
@pytest.mark.parametrize("command", ["ir", "cr"])
def test_a_shared_secret_enrols(
    tmp_path: Path, mac_site: Site, command: Command, options: tuple[str, ...]
) -> None:
    """openssl verifies the MAC of ip and pkiConf, and the new certificate up to the root."""
    key = make_key("p256")
    result = ask_by_secret(tmp_path, mac_site, command, key, *options).check()
    first = {"ir": ["IR", "IP"], "cr": ["CR", "CP"]}[command]
    assert dialogue(result) == [*first, "CERTCONF", "PKICONF"]
    certificate = load_certificate(tmp_path / "new.pem")
    assert certificate.subject.rfc4514_string() == SUBJECT_RFC4514
    assert certificate.public_key() == key.public_key()
    log = mac_site.gateway.log_path.read_text()
    assert not any(secret in log for secret in SHARED_SECRETS.values())


@pytest.mark.requirement(41)
def test_a_wrong_secret_is_a_bad_message_check(tmp_path: Path, mac_site: Site) -> None:
    """And so is an unknown reference."""
    before = mac_site.issued_count
    for reference in ("enb-7", "enb-8"):
        result = ask_by_secret(
            tmp_path,
            mac_site,
            "ir",
            make_key("p256"),
            *("-unprotected_errors",),
            reference=reference,
            secret="not-the-secret-of-anybody",
        )
        assert result.returncode != 0
        assert result.fail_info == {"badMessageCheck"}
    assert mac_site.issued_count == before


def test_a_secret_for_single_use_enrols_once(tmp_path: Path, mac_site: Site) -> None:
    """The second time, notAuthorized."""
    ask_by_secret(tmp_path, mac_site, "ir", make_key("p256"), reference="once").check()
    second = ask_by_secret(tmp_path, mac_site, "ir", make_key("p256"), reference="once")
    assert second.fail_info == {"notAuthorized"}


# --- what openssl has no option for ---------------------------------------------------------------


def make_enrollment(station: Station, transaction_id: bytes | None = None) -> Enrollment:
    """Return an ir of our own base station; with a transactionID, if it has to be a given one."""
    drawn = iter([transaction_id] if transaction_id else [])
    return Enrollment(
        DeviceIdentity(
            cmp_credential(station.credential),
            operator_trust(*load_certificates(station.site.root, "root")),
        ),
        make_key("p256"),
        RequestOptions(subject=SUBJECT_RFC4514, san=(f"dns:{SAN[0]}",)),
        clock=lambda: datetime.now(UTC),
        random_octets=lambda count: next(drawn, None) or secrets.token_bytes(count),
    )


@pytest.mark.requirement(54, 112, 155)
async def test_a_broken_proof_of_possession_is_refused(station: Station) -> None:
    """One octet of the POP's signature differs; the message's own protection is in order."""
    before = station.site.issued_count
    der = await make_enrollment(station).request()
    body_der = PKIMessage.from_der(der).body_der
    broken = body_der[:-1] + bytes([body_der[-1] ^ 1])
    bad = await signed_again(der, station.credential, body_der=broken)
    async with aiohttp.ClientSession() as session:
        answer = PKIMessage.from_der(await post(session, station.site.gateway.url, bad))
    assert (answer.body_type, fail_names(answer)) == (BodyType.ip, ["badPOP"])
    assert station.site.issued_count == before


@pytest.mark.requirement(12, 94)
async def test_a_live_transaction_cannot_be_taken_over(station: Station) -> None:
    """A different ir under its transactionID is refused; a repeat gets the same answer; it completes."""
    before = station.site.issued_count
    url = station.site.gateway.url
    first = make_enrollment(station)
    second = make_enrollment(station, first.transaction_id)
    async with aiohttp.ClientSession() as session:
        ip = await post(session, url, await first.request())
        refusal = PKIMessage.from_der(await post(session, url, await second.request()))
        assert fail_names(refusal) == ["transactionIdInUse"]
        assert await post(session, url, await first.request()) == ip
        step = await first.receive(ip)
        assert isinstance(step, Send)
        done = await first.receive(await post(session, url, step.der))
    assert isinstance(done, Done)
    assert station.site.issued_count == before + 1
