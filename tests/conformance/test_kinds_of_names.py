"""URIs, mailboxes and directory names in patterns, templates, the inventory and end entities, as dNSNames are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ra_gateway.ca.ledger.sql import san_identifiers
from ra_gateway.ca.records import EndEntity
from ra_gateway.cmp.crmf import CertTemplate, cert_req_messages
from ra_gateway.cmp.names import (
    fits_general_name,
    from_rfc4514,
    general_names,
    general_names_der,
    split_general_names,
)
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.protection import Credential
from ra_gateway.config.values import _san_pattern, _san_template
from ra_gateway.errors import ConfigError
from ra_gateway.ra.policy import IdentityRules
from ra_gateway.ra.settings import InventoryUse, SubjectRule
from ra_gateway.stores.inventory import CSVInventory
from tests.support import pki, requests
from tests.support.asserts import assert_served
from tests.support.credentials import cmp_credential
from tests.support.desk import NOW, open_client
from tests.support.harness import World
from tests.support.pki import OperatorPKI, VendorPKI

UUID = "uri:urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
NAMES = (
    "dns:enb1.example.net",
    "ip:192.0.2.1",
    UUID,
    "email:ran@example.net",
    "dn:CN=enb1,O=Example Operator",
)


@pytest.fixture
def key() -> Any:
    return pki.make_key("p256")


def device(vendor: VendorPKI) -> Credential:
    return cmp_credential(vendor.sub.issue("CN=ENB1,OU=RAN\\, North,O=ACME Radio"))


async def ask(world: World, signer: Credential, key: Any, *san: str) -> bytes:
    return await requests.request(world, signer, key, requests.template(key, "CN=enb1", san))


@pytest.mark.requirement(67)
@pytest.mark.parametrize(
    "name, pattern, fits",
    [
        (UUID, "uri:urn:uuid:*", True),
        (UUID.replace("uri:urn", "uri:URN"), "uri:urn:uuid:*", True),
        (UUID, "uri:https:*", False),
        ("uri:https://H.example.net/a,b+c", "uri:https://h.example.net/*", True),
        ("uri:https://a.ran.example.net/x", "uri:https://*.ran.example.net/*", True),
        ("uri:https://evil.com/a.ran.example.net/", "uri:https://*.ran.example.net/*", False),
        ("uri:https://evil.com?.ran.example.net", "uri:https://*.ran.example.net", False),
        ("uri:https://evil.com#.ran.example.net", "uri:https://*.ran.example.net", False),
        ("uri:https://evil.com/a.ran.example.net", "uri:*.ran.example.net", False),
        ("uri:https://a1.ran.example.net", "uri:https://a?.ran.example.net", True),
        ("uri:https://a1.ran.example.net/x", "uri:https:*", True),
        ("uri:https://a1.ran.example.net/x", "*", True),
        ("uri:https://h.example.net/A", "uri:https://h.example.net/a", False),
        ("uri:https://h.example.net:8443", "uri:https://h.example.net:*", True),
        ("uri:https://h.example.net:80@evil.org", "uri:https://h.example.net:*", False),
        ("uri:https://h.example.net:80@evil.org/x", "uri:https://h.example.net:*/*", False),
        ("uri:https://h.example.net@evil.org", "uri:https://h.example.net*", False),
        ("uri:https://h.example.net:x=1@evil.org", "uri:https://h.example.net?x=*", False),
        ("uri:https://a@h.example.net", "uri:https://*@h.example.net", True),
        ("uri:https://h.example.net@evil.org", "uri:https://*@evil.org", True),
        ("uri:sip:a@h.example.net", "uri:sip:*@*.example.net", True),
        ("uri:sip:a@evil.org;x=@h.example.net", "uri:sip:*@h.example.net", False),
        ("uri:sip:a@evil.org;x=.example.net", "uri:sip:*@*.example.net", False),
        ("uri:sip:h.example.net:1@evil.org", "uri:sip:h.example.net:*", False),
        ("uri:sip:evil.org?x=.example.net", "uri:sip:*.example.net", False),
        ("uri:sip:a@h.example.net;user=phone", "uri:sip:*@h.example.net;*", True),
        ("uri:mailto:a@evil.org,b@example.net", "uri:mailto:*@example.net", False),
        ("uri:mailto:a,b@example.net", "uri:mailto:*@example.net", False),
        ("uri:sip:a%40evil.org%3B.example.net", "uri:sip:*.example.net", False),
        ("uri:sip:a%2Bb@h.example.net", "uri:sip:a%2b*@h.example.net", False),
        ("uri:sip:a%2Bb@h.example.net", "uri:sip:a%2B*@h.example.net", True),
        ("uri:urn:example:a/b?c@d", "uri:urn:example:*", True),
        ("email:Ran@Example.NET", "email:Ran@example.net", True),
        ("email:ran@example.net", "email:Ran@example.net", False),
        ("email:ran@example.net.evil.org", "email:*@example.net", False),
        ("dn:CN=enb1,O=Example", "dn:CN=*,O=Example", True),
        ("dn:CN=ENB1,O=example", "dn:CN=enb1,O=Example", True),
        ("dn:CN=enb1,OU=x,O=Example", "dn:CN=*,O=Example", False),
        ("dn:CN=enb1,O=Example", "dn:*", True),
        ("dn:CN=enb1,O=Example", "dns:*", False),
        ("dns:cn=enb1", "dn:*", False),
        ("ip:2001:db8::1", "ip:2001:DB8:0::1", True),
        ("dns:ENB1.example.net.", "dns:enb1.example.net", True),
    ],
)
def test_a_name_fits_a_pattern_of_its_kind(name: str, pattern: str, fits: bool) -> None:
    """Compared as RFC 5280 7.2 to 7.5 has it; a directory name attribute by attribute."""
    assert fits_general_name(name, pattern) is fits


@pytest.mark.requirement(67)
@pytest.mark.parametrize("name", NAMES)
async def test_names_of_every_kind_may_be_allowed(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, key: Any, name: str
) -> None:
    """By their own text, by the kind alone, and not by another kind or text."""
    kind = name.partition(":")[0]
    for pattern, served in ((name, True), (f"{kind}:*", True), (f"{name}x", False), ("dn:", False)):
        rules = IdentityRules(allowed_subjects=("CN=enb1",), allowed_sans=(pattern,))
        world = World.make(vendor_pki, operator_pki, identity=rules)
        der = await ask(world, device(vendor_pki), key, name)
        if served:
            await assert_served(world, der)
        else:
            await requests.assert_refused_in_body(world, der, "notAuthorized", rule="R67")


@pytest.mark.requirement(67, 141)
async def test_templates_make_names_of_every_kind(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, key: Any
) -> None:
    """What the vendor certificate says becomes one value of each, escaped where its kind needs that."""
    templates = ("uri:urn:nf:{cn}", "email:{cn}@example.net", "dn:CN={cn},OU={ou}")
    rules = IdentityRules(SubjectRule.replace, "CN={cn}", san_template=templates)
    world = World.make(vendor_pki, operator_pki, identity=rules)
    await assert_served(world, await ask(world, device(vendor_pki), key))
    (asked,) = cert_req_messages(world.ca.messages[-1].body_content)
    extension = asked.template.extension(OID.subjectAltName)
    assert extension is not None
    made = ("uri:urn:nf:ENB1", "email:ENB1@example.net", "dn:CN=ENB1,OU=RAN\\, North")
    assert general_names(extension.value) == made
    for template in ("uri:{ou}", "email:{ou}@example.net", "uri:no-scheme", "email:nobody", "dn:x"):
        rules = IdentityRules(SubjectRule.replace, "CN={cn}", san_template=(template,))
        world = World.make(vendor_pki, operator_pki, identity=rules)
        answer = await world.ask(await ask(world, device(vendor_pki), key))
        assert world.ca.received == [], template
        assert answer.body_type.name == "ip"


async def test_the_inventory_lists_names_of_every_kind(
    tmp_path: Path, vendor_pki: VendorPKI, operator_pki: OperatorPKI, key: Any
) -> None:
    """Separated by blanks, which a directory name may have itself."""
    path = tmp_path / "inventory.csv"
    row = f'acme,ENB1,CN=site-7,"{" ".join(NAMES)}",true'
    path.write_text(f"domain,identity,subject,san,enabled\n{row}\n")
    rules = IdentityRules(inventory=InventoryUse.required, identity_from="cn")
    world = World.make(vendor_pki, operator_pki, identity=rules, inventory=CSVInventory(path))
    await assert_served(world, await ask(world, device(vendor_pki), key))
    (asked,) = cert_req_messages(world.ca.messages[-1].body_content)
    extension = asked.template.extension(OID.subjectAltName)
    assert extension is not None
    assert general_names(extension.value) == NAMES


def test_a_list_of_names_is_split_where_one_begins() -> None:
    """A blank within a directory name is its own; others separate."""
    assert split_general_names(f"  {' '.join(NAMES)} ") == NAMES
    assert split_general_names("dn:CN=a b  dns:c d") == ("dn:CN=a b", "dns:c", "d")
    assert split_general_names("") == ()


async def test_an_end_entity_has_names_of_every_kind(
    tmp_path: Path, vendor_pki: VendorPKI, operator_pki: OperatorPKI
) -> None:
    """It gets them, or those of them that it asks for, however it spells them; what is no name is not registered."""
    entity = EndEntity("enb1", "CN=enb1,O=Operator", NAMES, "", "acme", "SN-000001")
    async with open_client(operator_pki, vendor_pki, tmp_path / "ledger.db", entity) as desk:
        enrolment = await desk.enrol(template=CertTemplate())
        found = enrolment.certificate.subject_alt_name_der
        assert found is not None
        assert general_names(found) == NAMES
        for name, why in (
            ("uri:nowhere", "is no name"),
            ("email:nobody", "is no name"),
            ("dn:x", "is no name"),
            ("other:00", "is no name"),
        ):
            wrong = EndEntity("enb2", "CN=enb2,O=Operator", (name,), "", "acme", "SN-000002")
            with pytest.raises(ConfigError, match=why):
                await desk.ledger.registry.add_entity(wrong, "test", NOW)


def test_a_registered_directory_name_is_found_as_a_subject_is() -> None:
    """So that nobody else is given it as a subject, in whatever spelling."""
    (plain,) = san_identifiers(["dns:enb1.example.net"])
    one, other = san_identifiers(["dn:CN=enb1,O=A B"]), san_identifiers(["dn:CN=ENB1,O=a  b"])
    assert len(one) == 2
    assert one & other
    assert plain not in one


@pytest.mark.parametrize(
    "text", [*NAMES, "uri:urn:nf:{cn}", "dn:CN={cn},O=X", "email:{cn}@x.example"]
)
def test_the_configuration_takes_every_kind(text: str) -> None:
    """In templates and in patterns."""
    assert (_san_template(text), _san_pattern(text)) == (text, text)
    kind = text.partition(":")[0]
    assert _san_pattern(f"{kind}:*") == f"{kind}:*"


@pytest.mark.parametrize(
    "text",
    ["x.example", "host:x", "uri:nowhere", "email:nobody", "dn:x", "dn:{cn}", "dns:*.x.example"],
)
def test_the_configuration_refuses_templates_that_make_no_name(text: str) -> None:
    """With what to write instead."""
    with pytest.raises(
        Exception, match=r"kind|form|name|scheme|mailbox|label|host|wildcard|encoded|\*"
    ):
        _san_template(text)


def test_spellings_of_directory_names_are_one(tmp_path: Path) -> None:
    """DER and text go round."""
    for name in NAMES:
        assert general_names(general_names_der([name])) == (name,)
    assert general_names_der(["dn:CN=a"]).endswith(from_rfc4514("CN=a"))
