"""What sites of `init` and of the demonstration issue: whole certificates, with a CRL that is where they say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ra_gateway.app.profile_warnings import of_keys
from ra_gateway.ca import lint
from ra_gateway.ca.profiles import NE_IPSEC
from ra_gateway.cli.setup import write_setup
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crl import distribution_point_urls, open_crl
from ra_gateway.cmp.names import from_rfc4514
from ra_gateway.config.reading import load
from ra_gateway.device.errors import EnrollmentFailed
from ra_gateway.keys import load_certificates
from tests.support.commandline import run, succeeded
from tests.support.pki import VendorPKI, make_key, make_root, write_certificates
from tests.support.ports import free_port
from tests.support.sites import Site, served

DOMAIN = "ran.example.net"


@asynccontextmanager
async def site_of(
    directory: Path, vendor: VendorPKI, domain: str | None, **options: Any
) -> AsyncIterator[Site]:
    """Serve what `init` (with a domain) or the demonstration writes."""
    vendor.write(directory / "acme")
    path = write_setup(
        directory,
        organisation="Example Operator",
        vendors={"acme": ("acme/root.pem", "acme/sub.pem")},
        domain=domain,
        now=datetime.now(UTC),
        port=0,
        status_port=free_port(),
        **options,
    )
    # Whatever the gateway lets pass, the CA judges.
    head, _ = path.read_text().split("[vendors.acme.identity]")
    anyone = '[vendors.acme.identity]\nallowed_subjects = ["*"]\nallowed_sans = ["*"]\n'
    path.write_text(head + anyone)
    root = directory / "operator" / "root.pem"
    async with served(path, vendor, root, revoked=set, refuse=dict) as site:
        yield site


@pytest.mark.requirement("T14", "T29")
async def test_the_crl_is_where_certificates_say(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """Those of base stations, of the RA and of the CMP signer; each has a name besides its subject."""
    async with site_of(tmp_path, vendor_pki, DOMAIN) as site:
        subject = f"CN=enb-1.{DOMAIN},O=Example Operator"
        enrolled = await site.run(site.enrollment(site.identity(), BodyType.ir, subject=subject))
        own = [load_certificates(tmp_path / name, "")[0] for name in ("ra/ra.pem", "ca/cmp.pem")]
        for certificate in (enrolled.certificate, *own):
            assert certificate.subject_alt_name_der is not None
            (url,) = distribution_point_urls(certificate)
            async with site.session.get(url) as response:
                crl = open_crl(await response.read())
            assert crl.issuer_der == certificate.issuer_der
        names = [x509.load_der_x509_certificate(item.der) for item in own]
        hosts = [
            item.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            for item in names
        ]
        assert [host.get_values_for_type(x509.DNSName) for host in hosts] == [
            [f"ra.{DOMAIN}"],
            [f"cmp.{DOMAIN}"],
        ]
        renewed = await site.run(site.enrollment(enrolled.identity, BodyType.kur))
        assert renewed.certificate.subject_alt_name_der == enrolled.certificate.subject_alt_name_der


@pytest.mark.parametrize(
    "kind, subject",
    [
        ("p256", "CN=enb-1"),
        ("p384", "CN=enb-2.ran.example.net"),
        ("p256", "CN=enb-3,OU=ran,O=Example Operator,C=DE"),
        ("rsa2048", "O=Example Operator,CN=enb-4"),
        ("p521", "2.5.4.5=123,CN=enb-5,O=Elsewhere,C=DE"),
    ],
)
async def test_the_demonstration_takes_any_proper_subject(
    tmp_path: Path, vendor_pki: VendorPKI, kind: Any, subject: str
) -> None:
    """With or without O and SubjectAltName, in any order; it is renewed as it is."""
    async with site_of(tmp_path, vendor_pki, None) as site:
        site.device_key = make_key(kind)
        done = await site.run(site.enrollment(site.identity(), BodyType.ir, subject=subject))
        assert done.certificate.subject_der == from_rfc4514(subject)
        assert distribution_point_urls(done.certificate)
        await site.run(site.enrollment(done.identity, BodyType.kur))


@pytest.mark.requirement("T1", "T8", "T12")
async def test_a_site_of_init_issues_what_the_standard_allows(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """The same subjects are refused there."""
    async with site_of(tmp_path, vendor_pki, DOMAIN) as site:
        for subject in (
            "CN=enb-1",
            "CN=enb-1,O=Example Operator",
            "CN=enb-1.ran.example.net",
            "O=Example Operator,CN=enb-1.ran.example.net",
            "CN=enb-1.ran.example.net,O=Other",
            "CN=enb-1.core.example.net,O=Example Operator",
        ):
            with pytest.raises(EnrollmentFailed, match="badCertTemplate"):
                await site.run(site.enrollment(site.identity(), BodyType.ir, subject=subject))
        good = "CN=enb-1.ran.example.net,O=Example Operator"
        done = await site.run(site.enrollment(site.identity(), BodyType.ir, subject=good))
        assert done.certificate.subject_alt_name_der is not None


@pytest.mark.requirement("T29")
def test_subjects_and_names_of_a_pki(tmp_path: Path) -> None:
    """They are the operator's to choose; what is no name, or no URL, leaves nothing behind."""
    subjects = {
        "root": "CN=Root 1,O=Op,C=DE",
        "issuing": "CN=RAN CA 1,O=Op,C=DE",
        "cmp": "CN=cmp.example.net,O=Op",
        "ocsp": "CN=OCSP,O=Op",
    }
    options = [part for name, dn in subjects.items() for part in ("--subject", f"{name}={dn}")]
    url = "http://crl.example.net/{issuer}.crl"
    names = ("--san", "dns:cmp.example.net", "--san", "ip:192.0.2.1")
    told = succeeded("ca", "create", tmp_path / "ca", *options, *names, "--crl-url", url)
    assert "TS 33.310" not in told
    made = {name: load_certificates(tmp_path / "ca" / f"{name}.pem", "")[0] for name in subjects}
    for name, dn in subjects.items():
        assert made[name].subject_der == from_rfc4514(dn)
    identifier = (made["issuing"].subject_key_identifier or b"").hex()
    assert distribution_point_urls(made["cmp"]) == (url.replace("{issuer}", identifier),)
    # Its successor, and that of another issuing CA, have the same.
    succeeded("ca", "renew-signers", tmp_path / "ca")
    succeeded("ca", "roll-issuing", tmp_path / "ca")
    new, issuing = (
        load_certificates(tmp_path / "ca" / f"{name}.pem", "")[0] for name in ("cmp", "issuing")
    )
    assert new.subject_alt_name_der == made["cmp"].subject_alt_name_der
    identifier = (issuing.subject_key_identifier or b"").hex()
    assert distribution_point_urls(new) == (url.replace("{issuer}", identifier),)
    assert "no SubjectAltName (--san) and no URL" in succeeded("ca", "create", tmp_path / "bare")
    for wrong in (("--subject", "root=x"), ("--subject", "rot=CN=x"), ("--san", "x"), ("--crl-url", "https://x/"),
                  ("--subject", "root=CN=A", "--subject", "issuing=cn=a")):  # fmt: skip
        assert run("ca", "create", tmp_path / "no", *wrong).exit_code != 0
        assert not (tmp_path / "no" / "root.pem").exists()


def test_init_takes_subjects(tmp_path: Path) -> None:
    """That of the RA too."""
    ra = "CN=ra1.example.net,O=Op"
    succeeded(
        "init",
        tmp_path / "site",
        "--subject",
        f"ra={ra}",
        "--subject",
        "root=CN=R,O=Op",
        "--port",
        "9000",
    )
    assert load_certificates(tmp_path / "site/ra/ra.pem", "")[0].subject_der == from_rfc4514(ra)
    assert load_certificates(tmp_path / "site/ca/root.pem", "")[0].subject_der == from_rfc4514(
        "CN=R,O=Op"
    )
    config = load(tmp_path / "site" / "gateway.toml")
    assert config.ca is not None
    assert config.ca.crl_url == "http://127.0.0.1:9002/crl/{issuer}.crl"
    assert config.ca.domains == (DOMAIN,)


def test_the_linter_takes_what_a_site_has(tmp_path: Path) -> None:
    """Every certificate that `init` makes, by pkilint."""
    succeeded("init", tmp_path / "site")
    for name in ("ra/ra.pem", "ca/cmp.pem", "ca/ocsp.pem", "ca/issuing.pem", "ca/root.pem"):
        for certificate in load_certificates(tmp_path / "site" / name, ""):
            assert lint.lint_certificate(NE_IPSEC, certificate.der) == []


def test_a_ca_without_the_url_of_its_crl_does_not_start(tmp_path: Path) -> None:
    """It would issue nothing; a profile of one's own that needs none is served."""
    succeeded("init", tmp_path / "site")
    config = tmp_path / "site" / "gateway.toml"
    text = "".join(
        line
        for line in config.read_text().splitlines(keepends=True)
        if not line.startswith("crl_url")
    )
    config.write_text(text)
    ended = run("check-config", "--config", config)
    assert ended.exit_code != 0
    assert "ca.crl_url: is not set, and ne_ipsec issues nothing" in ended.stderr
    own = '[ca.profiles.none]\nbase = "ne_ipsec"\ncrl_required = false\n'
    config.write_text(text.replace('profile = "ne_ipsec"', 'profile = "none"') + own)
    assert "is looser than TS 33.310 6.1" in succeeded("check-config", "--config", config)


@pytest.mark.requirement("T5")
@pytest.mark.parametrize(
    "kind, issuer, year, found",
    [
        ("rsa2048", "p256", 2031, ["has an RSA key of 2048 bits and ends after 2030"]),
        ("rsa2048", "p256", 2030, []),
        ("rsa3072", "p256", 2031, []),
        ("p256", "rsa2048", 2031, ["has a signature by PKCS #1 v1.5 and ends after 2030"]),
        ("p256", "p256", 2040, []),
    ],
)
def test_what_outlives_2030(
    tmp_path: Path, kind: Any, issuer: Any, year: int, found: list[str]
) -> None:
    """Short RSA keys, and signatures by PKCS #1 v1.5."""
    root = make_root("CN=Root", issuer, not_after=datetime(2045, 1, 1, tzinfo=UTC))
    made = root.issue("CN=ra", kind, not_after=datetime(year, 12, 1, tzinfo=UTC))
    write_certificates(tmp_path / "ra.pem", made.certificate)
    problems = list(of_keys("ra.certificate_path", [tmp_path / "ra.pem"]))
    assert [problem.what.partition(" (")[0] for problem in problems] == [
        f"ra.pem {text}" for text in found
    ]
