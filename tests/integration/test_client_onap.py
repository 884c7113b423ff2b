"""CertService of ONAP enrols and renews at a gateway that is configured as docs/client-onap.md says, and at no less."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ra_gateway.cmp.bodies import cert_rep_message
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.events import RequestHandled
from tests.support import page_site
from tests.support.answers import fail_names, status_of
from tests.support.onap import (
    HMAC_SHA1,
    SHA1,
    CertService,
    certificate_in,
    has_root,
    new_key,
    text_of,
)
from tests.support.openssl import extended_key_usages, load_certificate
from tests.support.page_site import SECRET, PageSite, make_page_site
from tests.support.pki import Credential, VendorPKI

PAGE = "client-onap.md"
SUBJECT = "CN=aai.onap.example.net,O=Example Operator"
NAMES = ("dns:aai.onap.example.net", "dns:www.onap.example.net")


@dataclass
class Site:
    """A gateway as the page has it, in this process, and CertService."""

    gateway: PageSite
    client: CertService

    @property
    def events(self) -> list[RequestHandled]:
        """What was handled."""
        return self.gateway.events

    async def ask(self, der: bytes) -> PKIMessage:
        """Send octets and decode the answer."""
        return await self.gateway.ask(der, "onap")

    async def first(self, **options: Any) -> PKIMessage:
        """The answer to an ir."""
        key = options.pop("key", None) or new_key()
        return await self.ask(
            await self.client.request(SUBJECT, NAMES, datetime.now(UTC), key=key, **options)
        )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, vendor_pki: VendorPKI) -> Path:
    """What `init` makes, with what the page changes of the CA."""
    return make_page_site(tmp_path_factory.mktemp("onap"), PAGE, vendor_pki).parent


@asynccontextmanager
async def served(directory: Path, *changes: tuple[str, str]) -> AsyncIterator[Site]:
    """Serve what `init` and the page say, with something of the page changed."""
    async with page_site.served(directory, directory, PAGE, *changes) as site:
        issuing = load_certificate(directory / "operator" / "issuing.pem")
        client = CertService(issuing.subject.rfc4514_string(), secret=SECRET)
        yield Site(site, client)


@pytest.mark.requirement(38, 44, "T41")
async def test_it_enrols_and_renews(directory: Path) -> None:
    """ir for one name, cr for another, under the one secret; and each is renewed under its certificate."""
    async with served(directory) as site:
        other = "CN=sdc.onap.example.net,O=Example Operator"
        asked: list[tuple[BodyType, str, tuple[str, ...]]] = [
            (BodyType.ir, SUBJECT, NAMES),
            (BodyType.cr, other, ("dns:sdc.onap.example.net",)),
        ]
        for body_type, subject, names in asked:
            now, key = datetime.now(UTC), new_key()
            der = await site.client.request(subject, names, now, key=key, body_type=body_type)
            certificate = certificate_in(await site.ask(der))
            assert certificate.subject.rfc4514_string() == subject
            assert extended_key_usages(certificate) == {
                ExtendedKeyUsageOID.SERVER_AUTH,
                ExtendedKeyUsageOID.CLIENT_AUTH,
            }
            for _ in range(2):
                old, key = Credential(certificate, key, ()), new_key()
                der = await site.client.update(subject, names, now, old=old, key=key)
                certificate = certificate_in(await site.ask(der))
                assert certificate.public_key() == key.public_key()
                san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
                dns = san.value.get_values_for_type(x509.DNSName)
                assert (certificate.subject.rfc4514_string(), {f"dns:{name}" for name in dns}) == (
                    subject,
                    set(names),
                )


@pytest.mark.requirement(38, 40, 43, 45, 47, 67)
@pytest.mark.parametrize(
    "changes, client, fail_info, rule",
    [
        pytest.param(
            [
                (
                    '[endpoints.onap.mac]\nsecrets_path = "onap-secrets.csv"\n'
                    "allow_weak_owf = true\nallow_weak_hmac = true",
                    "",
                )
            ],
            {},
            "wrongIntegrity",
            "R43",
            id="no shared secrets",
        ),
        pytest.param(
            [("allow_weak_owf = true", "")], {}, "badAlg", "R40", id="no SHA-1 as one-way function"
        ),
        pytest.param([("allow_weak_hmac = true", "")], {}, "badAlg", "R40", id="no HMAC-SHA1"),
        pytest.param(
            [
                ('"CN=*.onap.example.net,O=Example Operator"', '"CN=sdc,O=Example Operator"'),
                ("dns:*.onap.example.net", "dns:sdc.onap.example.net"),
            ],
            {},
            "badMessageCheck",
            "R45",
            id="one subject for the secret",
        ),
        pytest.param(
            [("dns:*.onap.example.net", "dns:aai.onap.example.net")],
            {},
            "notAuthorized",
            "R67",
            id="not all of the names",
        ),
        pytest.param(
            [('"lenient"', '"strict"')], {}, "badMessageCheck", "R45", id="sender is the subject"
        ),
        pytest.param(
            [('"lenient"', '"strict"')],
            {"sender": "CN=onap-certservice", "validity": b""},
            "badRequest",
            "R47",
            id="a certReqId of its own",
        ),
        pytest.param(
            [
                ('"lenient"', '"strict"'),
                ("[endpoints.onap.mac]", '[endpoints.onap.mac]\nquirks = ["any_cert_req_id"]'),
            ],
            {"sender": "CN=onap-certservice"},
            "badCertTemplate",
            "RFC 4211 5",
            id="an empty validity",
        ),
        pytest.param(
            [],
            {"secret": "another secret than the right one"},
            "badMessageCheck",
            "R41",
            id="a wrong secret",
        ),
        pytest.param(
            [],
            {"reference": "another-reference"},
            "badMessageCheck",
            "R41",
            id="an unknown reference",
        ),
    ],
)
async def test_what_is_not_forgiven_is_refused(
    directory: Path,
    changes: list[tuple[str, str]],
    client: dict[str, Any],
    fail_info: str,
    rule: str,
) -> None:
    """With any one of the page's settings off; each refusal has a text, without which CertService fails."""
    async with served(directory, *changes) as site:
        for name, value in client.items():
            setattr(site.client, name, value)
        for body_type in (BodyType.ir, BodyType.cr):
            answer = await site.first(body_type=body_type)
            assert list(fail_names(answer)) == [fail_info]
            assert site.events[-1].rule == rule
            assert text_of(status_of(answer))


@pytest.mark.requirement(67)
async def test_the_pattern_bounds_what_it_may_have(directory: Path) -> None:
    """A subject outside of it, none, and a wildcard name; whoever knows the secret has no more than the pattern."""
    async with served(directory) as site:
        now = datetime.now(UTC)
        asked = [
            ("CN=aai.onap.example.org,O=Example Operator", NAMES, "badMessageCheck"),
            ("CN=aai.onap.example.net,O=Example Operator,C=SE", NAMES, "badMessageCheck"),
            (SUBJECT, ("dns:*.onap.example.net",), "notAuthorized"),
            (SUBJECT, ("ip:192.0.2.1",), "notAuthorized"),
        ]
        for subject, names, fail_info in asked:
            answer = await site.ask(await site.client.request(subject, names, now, key=new_key()))
            assert list(fail_names(answer)) == [fail_info]
        site.client.sender = SUBJECT
        other = "CN=aai.onap.example.org,O=Example Operator"
        answer = await site.ask(await site.client.request(other, NAMES, now, key=new_key()))
        assert list(fail_names(answer)) == ["notAuthorized"]
        answer = await site.ask(await site.client.request("", NAMES, now, key=new_key()))
        assert list(fail_names(answer)) == ["badCertTemplate"]


@pytest.mark.requirement(99, "T48")
async def test_what_it_waits_for_in_vain(directory: Path) -> None:
    """Without implicitConfirm its certificate stays unconfirmed; without kup_root there is no root in a kup."""
    async with served(directory, ('implicit_confirm = "relay"', "")) as site:
        answer = await site.first()
        assert status_of(answer).issued
        assert not answer.header.implicit_confirm
    async with served(directory, ("kup_root = true", "")) as site:
        key = new_key()
        certificate = certificate_in(await site.first(key=key))
        old = Credential(certificate, key, ())
        der = await site.client.update(SUBJECT, NAMES, datetime.now(UTC), old=old, key=new_key())
        answer = await site.ask(der)
        assert cert_rep_message(answer.body_content).responses[0].status_info.issued
        assert not has_root(answer)


@pytest.mark.requirement(38)
async def test_a_stronger_mac_needs_less(directory: Path) -> None:
    """What is forgiven is not asked for."""
    async with served(
        directory, ("allow_weak_owf = true", ""), ("allow_weak_hmac = true", "")
    ) as site:
        assert (site.client.owf, site.client.mac) == (SHA1, HMAC_SHA1)
        site.client.owf, site.client.mac = "2.16.840.1.101.3.4.2.1", "1.2.840.113549.2.9"
        certificate_in(await site.first())
