"""What names a device in its vendor certificate: the FQDN of TS 33.310 9.4.4, a serialNumber, or any attribute."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from ra_gateway.ca.authorization import ClientMode, Mode
from ra_gateway.ca.records import EndEntity
from ra_gateway.clocks import now
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.crmf import CertTemplate, cert_req_messages
from ra_gateway.cmp.identity import SERIAL_NUMBER_OR_FQDN, DeviceValues, identity_key
from ra_gateway.cmp.names import attributes, general_names
from ra_gateway.cmp.protection import Credential
from ra_gateway.device.factory import Vendor
from ra_gateway.errors import ConfigError, NotAuthorized, PKIFailureInfo
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.ra.settings import InventoryUse, SubjectRule
from ra_gateway.stores.inventory import CSVInventory
from tests.support import pki, requests
from tests.support.asserts import assert_served
from tests.support.credentials import cmp_credential
from tests.support.desk import NOW, open_desk, vendor_domain
from tests.support.harness import World

FQDN = "enb-0001.acme-radio.example"


class Factory:
    """Makes vendor certificates with whatever names."""

    def __init__(self, vendor: pki.VendorPKI) -> None:
        self._vendor = vendor

    def device(
        self, subject: str = f"CN={FQDN},O=ACME Radio", *, dns: Sequence[str] = (FQDN,), **more: Any
    ) -> Credential:
        names = [x509.DNSName(name) for name in dns]
        san = [(x509.SubjectAlternativeName(names), False)] if names else []
        extensions = [*san, *more.pop("extensions", ())]
        return cmp_credential(self._vendor.sub.issue(subject, extensions=extensions, **more))

    def certificate(self, subject: str, *dns: str) -> Certificate:
        return self.device(subject, dns=dns).certificate


@pytest.fixture
def factory(vendor_pki: pki.VendorPKI) -> Factory:
    return Factory(vendor_pki)


# --- what the factory of the demonstration makes -----------------------------------------------------------------


@pytest.mark.requirement("T27")
def test_the_demonstrations_vendor_issues_as_the_text_has_it() -> None:
    """9.4.4: O and CN, the CN an FQDN, the same as dNSName, no serialNumber; keyUsage critical, SAN not."""
    credential, _ = Vendor.found("ACME Radio", clock=now).make_device("ENB-0001")
    certificate = x509.load_der_x509_certificate(credential.certificate.der)
    found = [(item.oid, item.value) for item in certificate.subject]
    assert found == [(NameOID.ORGANIZATION_NAME, "ACME Radio"), (NameOID.COMMON_NAME, FQDN)]
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert (san.critical, san.value.get_values_for_type(x509.DNSName)) == (False, [FQDN])
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)


# --- the default, and the others ----------------------------------------------------------------------------------


@pytest.mark.requirement("T27")
@pytest.mark.parametrize(
    "subject, dns, identity",
    [
        (f"CN={FQDN},O=ACME Radio", (FQDN,), FQDN),
        (f"CN={FQDN.upper()},O=ACME Radio", (FQDN,), FQDN),
        (f"CN={FQDN},O=ACME Radio", (FQDN.title(),), FQDN),
        (f"CN={FQDN},O=ACME Radio", ("oam.acme-radio.example", FQDN), FQDN),
        ("CN=ENB-0001,O=ACME Radio", (FQDN,), FQDN),
        ("O=ACME Radio", (FQDN,), FQDN),
        (f"CN={FQDN},O=ACME Radio", (f"{FQDN}.",), FQDN),
        ("CN=ENB-1,2.5.4.5=SN-1,O=ACME Radio", (), "SN-1"),
        (f"CN={FQDN},2.5.4.5=SN-1,O=ACME Radio", (FQDN,), "SN-1"),
        (f"CN={FQDN},2.5.4.5={FQDN},O=ACME Radio", (FQDN,), FQDN),
        ("2.5.4.5=21.0553.00", (FQDN,), "21.0553.00"),
    ],
)
def test_the_default_finds_the_identity_of_either_form(
    factory: Factory, subject: str, dns: tuple[str, ...], identity: str
) -> None:
    """A serialNumber where there is one, else the FQDN."""
    values = DeviceValues(factory.certificate(subject, *dns))
    assert values.identity(SERIAL_NUMBER_OR_FQDN, "acme") == identity


@pytest.mark.requirement("T27")
@pytest.mark.parametrize(
    "subject, dns, why",
    [
        ("CN=ENB-1,O=ACME Radio", (), "no serial_number, nor an fqdn"),
        (f"CN={FQDN},O=ACME Radio", (), "no serial_number, nor an fqdn"),
        (f"CN={FQDN}", ("enb-0002.acme-radio.example",), "its CN .* is another FQDN"),
        ("CN=ENB-1", (FQDN, "enb-0002.acme-radio.example"), "nor an fqdn"),
        ("CN=ENB-1", ("*.acme-radio.example",), "nor an fqdn"),
        ("CN=ENB-1", ("enb-0001",), "nor an fqdn"),
        ("CN=ENB-1", (f"{FQDN}..",), "nor an fqdn"),
        ("CN=ENB-1", ("192.0.2.1",), "nor an fqdn"),
        ("CN=ENB-1", ("",), "nor an fqdn"),
        (f"2.5.4.5={FQDN}", (), "could be the FQDN of another device"),
        (f"2.5.4.5={FQDN.upper()}", ("enb-0002.acme-radio.example",), "could be the FQDN"),
        (f"2.5.4.5=\\20{FQDN}", ("enb-0002.acme-radio.example",), "could be the FQDN"),
        (f"2.5.4.5={FQDN}\\20", ("enb-0002.acme-radio.example",), "could be the FQDN"),
        ("2.5.4.5=SN-1,2.5.4.5=SN-2", (FQDN,), "no serial_number, or more than one"),
    ],
)
def test_a_certificate_that_does_not_say_clearly_which_device_it_is_of(
    factory: Factory, subject: str, dns: tuple[str, ...], why: str
) -> None:
    """Nothing is guessed: another FQDN in the CN, two of them, a serialNumber that reads like one."""
    values = DeviceValues(factory.certificate(subject, *dns))
    with pytest.raises(NotAuthorized, match=why):
        values.identity(SERIAL_NUMBER_OR_FQDN, "acme")


@pytest.mark.requirement("T27")
def test_names_that_are_not_read_hide_none_that_is(factory: Factory) -> None:
    """Other kinds of names beside the FQDN, and a SubjectAltName that is none, break nothing."""
    names = [x509.IPAddress(ip_address("192.0.2.1")), x509.DNSName(FQDN)]
    device = factory.device(dns=(), extensions=[(x509.SubjectAlternativeName(names), False)])
    assert DeviceValues(device.certificate).fqdn == FQDN
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x03\x87\x05\x01")
    device = factory.device(dns=(), extensions=[(broken, False)])
    assert DeviceValues(device.certificate).fqdn is None


# --- through the gateway ------------------------------------------------------------------------------------------


@pytest.fixture
def key() -> Any:
    return pki.make_key("p256")


async def ask(world: World, device: Credential, key: Any, subject: str | None = None) -> bytes:
    return await requests.request(world, device, key, requests.template(key, subject))


LISTING = """\
domain,identity,subject,san,enabled
acme,ENB-0001.acme-radio.example,"CN=site-7.ran.example.net,O=Operator",dns:site-7.ran.example.net,true
acme,SN-2,"CN=site-8.ran.example.net,O=Operator",,true
acme,enb-0003.acme-radio.example,,,false
"""


@pytest.mark.requirement("T27")
async def test_the_inventory_lists_devices_of_either_form(
    tmp_path: Path,
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    factory: Factory,
    key: Any,
) -> None:
    """By the FQDN in whatever case, or by serialNumber; a device that is not listed, or disabled, gets nothing."""
    path = tmp_path / "inventory.csv"
    path.write_text(LISTING)
    rules = IdentityRules(inventory=InventoryUse.required)
    world = World.make(vendor_pki, operator_pki, identity=rules, inventory=CSVInventory(path))
    for device, site in (
        (factory.device(), "site-7"),
        (factory.device(f"CN={FQDN.upper()},O=ACME Radio"), "site-7"),
        (factory.device("2.5.4.5=sn-2,O=ACME Radio", dns=()), "site-8"),
    ):
        await assert_served(world, await ask(world, device, key, "CN=any"))
        (request,) = cert_req_messages(world.ca.messages[-1].body_content)
        assert attributes(request.template.subject_der or b"")[-1][1] == f"{site}.ran.example.net"
    for host, why in (("enb-0003", "is disabled"), ("enb-0004", "identity enb-0004.acme-radio")):
        fqdn = f"{host}.acme-radio.example"
        device = factory.device(f"CN={fqdn},O=ACME Radio", dns=(fqdn,))
        der = await ask(world, device, key, "CN=any")
        await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R145", detail=why)


@pytest.mark.requirement("T27")
async def test_a_certificate_that_names_two_devices_is_looked_up_as_neither(
    vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, factory: Factory, key: Any
) -> None:
    """Whatever the list says: which of the two it is, nobody knows."""

    class Everybody:
        async def find(self, domain: str, identity: str) -> InventoryEntry | None:
            return InventoryEntry()

    rules = IdentityRules(allowed_subjects=("*",), inventory=InventoryUse.optional)
    world = World.make(vendor_pki, operator_pki, identity=rules, inventory=Everybody())
    device = factory.device(dns=("enb-0002.acme-radio.example",))
    der = await ask(world, device, key, "CN=any")
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="T27")


@pytest.mark.requirement("T27")
@pytest.mark.parametrize(
    "template, subject",
    [
        ("CN={fqdn}", FQDN),
        ("CN={host}.ran.example.net", "enb-0001.ran.example.net"),
        ("CN={ou}.{l}.{c}", "RAN.Oulu.FI"),
        ("CN={2.5.4.13}", "macro"),
        ("CN={uid}-{dn_qualifier}", "7-q"),
    ],
)
async def test_templates_take_the_fqdn_its_first_label_and_any_attribute(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    factory: Factory,
    key: Any,
    template: str,
    subject: str,
) -> None:
    """In the subject that is made, in names, and in patterns of what may be asked for."""
    device = factory.device(
        f"CN={FQDN.upper()},OU=RAN,L=Oulu,C=FI,2.5.4.13=macro,UID=7,2.5.4.46=q,O=ACME Radio"
    )
    san = "dns:" + template.removeprefix("CN=")
    made = IdentityRules(SubjectRule.replace, template, san_template=(san,))
    world = World.make(vendor_pki, operator_pki, identity=made)
    await assert_served(world, await ask(world, device, key))
    (request,) = cert_req_messages(world.ca.messages[-1].body_content)
    assert attributes(request.template.subject_der or b"") == [("2.5.4.3", subject)]
    extension = request.template.extension("2.5.29.17")
    assert extension is not None
    assert general_names(extension.value) == (f"dns:{subject}",)
    allowed = World.make(
        vendor_pki, operator_pki, identity=IdentityRules(allowed_subjects=(template,))
    )
    await assert_served(allowed, await ask(allowed, device, key, f"CN={subject}"))
    der = await ask(allowed, device, key, f"CN=x{subject}")
    await requests.assert_refused_in_body(allowed, der, "notAuthorized", rule="R67")


@pytest.mark.requirement("T27")
@pytest.mark.parametrize("template", ["CN={fqdn}", "CN={host}", "CN={2.5.4.13}", "CN={dc}"])
async def test_what_the_certificate_lacks_or_says_twice_makes_no_name(
    vendor_pki: pki.VendorPKI,
    operator_pki: pki.OperatorPKI,
    factory: Factory,
    key: Any,
    template: str,
) -> None:
    """Two dNSNames of which neither is the CN, no description, two domainComponents."""
    device = factory.device("CN=ENB-1,DC=acme,DC=example", dns=("a.example", "b.example"))
    made = IdentityRules(SubjectRule.replace, template)
    world = World.make(vendor_pki, operator_pki, identity=made)
    der = await ask(world, device, key)
    await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R141")


@pytest.mark.requirement("T27")
async def test_the_bundled_ca_finds_end_entities_of_either_form(
    tmp_path: Path, vendor_pki: pki.VendorPKI, operator_pki: pki.OperatorPKI, factory: Factory
) -> None:
    """In client mode, by default: the FQDN in whatever case, or the serialNumber; nobody else has an end entity."""
    client = ClientMode({"acme": vendor_domain(vendor_pki)})
    async with open_desk(operator_pki, tmp_path / "ledger.db", client=client) as desk:
        desk.mode = Mode.client
        for name, identity in (("enb1", "ENB-0001.acme-radio.example"), ("enb2", "SN-2")):
            entity = EndEntity(name, f"CN={name},O=Operator", (), "", "acme", identity)
            await desk.ledger.registry.add_entity(entity, "test", NOW)
        for device, subject in (
            (factory.device(), "CN=enb1,O=Operator"),
            (factory.device("2.5.4.5=SN-2,O=ACME Radio", dns=()), "CN=enb2,O=Operator"),
        ):
            enrolment = await desk.enrol(signer=device, template=CertTemplate())
            assert enrolment.certificate.subject == subject
        for device in (
            factory.device(dns=("enb-0002.acme-radio.example",)),
            factory.device(f"CN={FQDN},2.5.4.5={FQDN},O=ACME Radio", dns=()),
            factory.device("CN=SN-2,O=ACME Radio", dns=()),
        ):
            der = await desk.request(signer=device, template=CertTemplate())
            assert await desk.refused(der) == (BodyType.ip, PKIFailureInfo.notAuthorized)


def test_an_inventory_lists_one_identity_once(tmp_path: Path) -> None:
    """Two spellings of one identity are one device; the refusal names both lines."""
    path = tmp_path / "inventory.csv"
    path.write_text(f"{LISTING}acme,enb-0001.ACME-radio.example,,,true\n")
    with pytest.raises(ConfigError, match="is listed in line 2 already"):
        CSVInventory(path)


def test_an_identity_is_compared_as_x520_compares_names() -> None:
    """Case and blanks make no difference."""
    assert identity_key(" SN  0001 a") == identity_key("sn 0001 A")
    assert identity_key("SN0001") != identity_key("SN 0001")
