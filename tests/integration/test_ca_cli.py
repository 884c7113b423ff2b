"""`ra-gateway ca` as operators meet it: what is said, what is stored, exit codes; beside a CA that serves."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
from typer.testing import CliRunner

from ra_gateway.cli.main import app
from ra_gateway.keys import load_certificates
from tests.support.commandline import run, succeeded, wrong_settings
from tests.support.pki import VendorPKI
from tests.support.processes import CAProcess
from tests.support.setups import edit, make_setup

PASSWORD: Final = "correct-horse-battery-staple"


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """Configuration of a gateway with a CA whose ledger knows one RA, `gateway`."""
    (tmp_path / "password").touch(mode=0o600)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return make_setup(tmp_path / "site", vendors={"acme": vendor_pki})


def ca(config: Path, *arguments: str | Path) -> str:
    """Run a command of `ra-gateway ca` that has to succeed, and return what it wrote."""
    return succeeded("ca", *arguments, "--config", config)


def refused(config: Path, *arguments: str | Path, exit_code: int = 2) -> str:
    """Run a command of `ra-gateway ca` that has to fail, and return what it said."""
    ended = run("ca", *arguments, "--config", config)
    assert (ended.exit_code, ended.stdout) == (exit_code, "")
    return ended.stderr


def table(text: str) -> list[list[str]]:
    """Return the rows of a table without its head."""
    return [line.split("\t") for line in text.splitlines()[1:]]


def issue_ra(config: Path, name: str = "gateway", *options: str) -> str:
    """Have an RA's certificate issued, and return its serial number."""
    out = config.parent / f"{name}-{len(list(config.parent.glob('*.p12')))}.p12"
    password = config.parents[1] / "password"
    told = ca(config, "ra", "issue", name, "--out", out, "--password-file", password, *options)
    found = re.search(r"serial ([0-9a-f]+),", told)
    assert found is not None
    return found[1]


# --- end entities -----------------------------------------------------------------------------------------------


def test_an_end_entity_lives_and_goes(config: Path) -> None:
    """add, list, show, block, unblock, open, delete."""
    names = ["--san", "dns:enb1.example.net", "--san", "ip:192.0.2.1"]
    vendor = ["--vendor", "acme", "--identity", "SN1", "--profile", "seg"]
    told = ca(config, "entity", "add", "enb 1", "--subject", "CN=enb1,O=X", *names, *vendor)
    assert told == "Registered enb 1.\n"
    row = ["enb 1", "active", "CN=enb1,O=X", "seg", "acme", "SN1", "operator"]
    assert table(ca(config, "entity", "list", "--pattern", "ENB*")) == [row]
    assert table(ca(config, "entity", "list", "--pattern", "x")) == []
    told = ca(config, "entity", "show", "enb 1")
    assert "Names:        dns:enb1.example.net, ip:192.0.2.1\n" in told
    assert "Blocked enb 1." in ca(config, "entity", "block", "enb 1")
    assert table(ca(config, "entity", "list", "--pattern", "enb*"))[0][1] == "blocked"
    assert "enb 1 is active." in ca(config, "entity", "unblock", "enb 1")
    told = ca(config, "entity", "open", "enb 1", "--hours", "2")
    assert re.match(r"Open for enb 1 until \d{4}-\d\d-\d\d \d\d:\d\d UTC.\nIt has no effect", told)
    assert "Open until" in ca(config, "entity", "show", "enb 1")
    assert "Closed for enb 1." in ca(config, "entity", "open", "enb 1", "--hours", "0")
    assert ca(config, "entity", "delete", "enb 1") == "Deleted enb 1.\n"
    assert "is not registered" in refused(config, "entity", "show", "enb 1")


def test_what_an_end_entity_names_has_to_exist(config: Path) -> None:
    """Profiles, vendors, subjects and names are checked, and nothing is registered."""
    add = ["entity", "add", "x", "--subject", "CN=x"]
    for options, told in (
        (["--profile", "none"], "there is no profile 'none' for it"),
        (["--profile", "ocsp_signer"], "there is no profile 'ocsp_signer' for it"),
        (
            ["--vendor", "none", "--identity", "1"],
            "there is no vendor 'none' for it. There are: acme",
        ),
        (["--vendor", "acme"], "has a vendor or an identity without the other"),
        (["--san", "x"], "'x' is no name for a SubjectAltName"),
    ):
        assert told in refused(config, *add, *options)
    assert table(ca(config, "entity", "list", "--pattern", "x")) == []


def test_pages_of_end_entities_follow_each_other(config: Path) -> None:
    """What does not fit is said, with how to get it."""
    file = config.parent / "entities.csv"
    file.write_text("name,subject\n" + "".join(f"e{n},CN=e{n}\n" for n in range(5)))
    assert ca(config, "entity", "import", file) == "Registered 5 end entities.\n"
    file.write_text("name,subject\nf0,CN=f0\n")
    assert ca(config, "entity", "import", file) == "Registered 1 end entity.\n"
    ended = run("ca", "entity", "list", "--limit", "3", "--pattern", "e?", "--config", config)
    assert (ended.exit_code, ended.stderr) == (0, "There are more: --after 'e2'\n")
    rest = ca(config, "entity", "list", "--after", "e2", "--pattern", "e?")
    assert [row[0] for row in table(rest)] == ["e3", "e4"]


CSV: Final = {
    "no header": ("e1,CN=e1\n", "the header is e1,CN=e1"),
    "nothing": ("", "the header is missing"),
    "a column too many": ("name,subject,colour\n", "the header is name,subject,colour"),
    "a comma too many": (
        "name,subject\ne1,CN=e1,O=X\n",
        "entities.csv:2: has more or fewer columns",
    ),
    "a profile that is none": (
        "name,subject,profile\ne1,CN=e1,\ne2,CN=e2,none\n",
        "line 3: there is no profile 'none'",
    ),
    "twice the same": ("name,subject\ne1,CN=e1\n\ne2,CN=E1\n", "line 4: has the subject of line 2"),
    "a name that is none": (
        "name,subject,names\ne1,CN=e1,dns:a b\n",
        "line 2: 'b' is no name",
    ),
    "no UTF-8": ("name,subject\ne\xff,CN=e1\n", "is no CSV in UTF-8"),
}


@pytest.mark.parametrize("case", CSV)
def test_a_wrong_file_registers_nobody(config: Path, case: str) -> None:
    """The line is named, and what is wrong in it."""
    text, told = CSV[case]
    file = config.parent / "entities.csv"
    file.write_bytes(text.encode("latin-1"))
    assert told in refused(config, "entity", "import", file)
    assert table(ca(config, "entity", "list", "--pattern", "e?")) == []


def test_a_file_from_a_spreadsheet_is_read(config: Path) -> None:
    """Byte order mark, CRLF, quotation marks and umlauts are what they export."""
    file = config.parent / "entities.csv"
    text = 'name,subject,names\r\n"Köln, 1","CN=k1,O=X","dns:k1.example ip:192.0.2.1"\r\n'
    file.write_bytes(text.encode("utf-8-sig"))
    ca(config, "entity", "import", file)
    assert "dns:k1.example, ip:192.0.2.1" in ca(config, "entity", "show", "Köln, 1")


def test_what_a_device_chose_does_not_reach_the_terminal(config: Path) -> None:
    """Control characters in a subject are shown, not obeyed; nor is such a subject registered."""
    told = refused(config, "entity", "add", "evil", "--subject", "CN=a\x1b[2Jb")
    assert "cannot be certified: attribute CN has the character U+001B" in told
    assert "CN=a\\x1b[2Jb" in told
    assert "\x1b" not in told + ca(config, "entity", "list")


# --- roles and RAs ----------------------------------------------------------------------------------------------


def test_roles_are_least_privilege(config: Path) -> None:
    """A role says what it lets be done; profiles of the PKI's own keys are nobody's."""
    told = ca(config, "role", "add", "revoker", "--privilege", "revoke", "--profile", "seg")
    assert told == "The role revoker: revoke; seg.\n"
    assert ["revoker", "revoke", "seg", ""] in table(ca(config, "role", "list"))
    told = ca(config, "role", "show", "revoker")
    assert "Members:      none\n" in told
    assert "Others' certificates: no\n" in told
    ca(config, "role", "delete", "revoker")
    assert "does not exist" in refused(config, "role", "show", "revoker")
    assert "gateway" in refused(config, "role", "delete", "ra")
    privilege = ["--privilege", "issue", "--profile"]
    assert "no profile 'none'" in refused(config, "role", "add", "x", *privilege, "none")
    assert "no profile 'ra'" in refused(config, "role", "add", "x", *privilege, "ra")
    assert run("ca", "role", "add", "x", "--config", config).exit_code == 2
    assert run("ca", "role", "add", "x", "--privilege", "all", "--config", config).exit_code == 2


def test_what_names_a_role_may_ask_for_is_told(config: Path) -> None:
    """Also where it is any; a pattern that stands for all of them is warned of."""
    add = ("role", "add", "north", "--privilege", "issue", "--profile", "seg")
    assert ca(config, *add) == "The role north: issue; seg; any name.\n"
    assert ["north", "issue", "seg", "any name"] in table(ca(config, "role", "list"))
    told, warning = ca(config, *add, "--subjects", "CN=*").splitlines()
    assert told == "The role north: issue; seg; CN=*."
    assert warning.startswith('warning: "CN=*" allows every name')
    told = ca(config, *add, "--subjects", "CN=enb-*,O=Operator")
    assert told == "The role north: issue; seg; CN=enb-*,O=Operator.\n"
    assert ["north", "issue", "seg", "CN=enb-*,O=Operator"] in table(ca(config, "role", "list"))


def test_an_ra_is_registered_with_its_certificate(config: Path) -> None:
    """add, list, show, block, unblock, delete; nothing comes into being silently."""
    certificate = config.parent / "ra" / "ra.pem"
    add: list[str | Path] = ["ra", "add", "second", "--certificate", certificate]
    assert "is not registered. Register it with --role" in refused(config, *add)
    told = refused(config, *add, "--role", "none")
    assert "role none: does not exist. Make it with `ra-gateway ca role add none`" in told
    assert "is registered for gateway" in refused(config, *add, "--role", "ra")
    assert [row[0] for row in table(ca(config, "ra", "list"))] == [
        "gateway"
    ]  # nothing is left of it
    ca(config, "ra", "delete", "gateway")
    assert "The CA hears" in ca(config, *add, "--role", "ra")
    assert [row[:3] for row in table(ca(config, "ra", "list"))] == [["second", "active", "ra"]]
    ca(config, "ra", "block", "second")
    assert table(ca(config, "ra", "list"))[0][1] == "blocked"
    ca(config, "ra", "unblock", "second")
    assert load_certificates(certificate, "")[0].fingerprint.hex() in ca(
        config, "ra", "show", "second"
    )
    ca_certificate = config.parent / "ca" / "issuing.pem"
    assert "is a CA's" in refused(config, "ra", "add", "second", "--certificate", ca_certificate)


def test_an_ra_certificate_is_carried_over_and_installed(config: Path, tmp_path: Path) -> None:
    """Issued as PKCS#12 under the RA's subject, heard beside the old one, installed where [ra] says."""
    old = load_certificates(config.parent / "ra" / "ra.pem", "")[0]
    serial = issue_ra(config)
    file = next(config.parent.glob("*.p12"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = pkcs12.load_pkcs12(file.read_bytes(), PASSWORD.encode())
    assert found.cert is not None
    assert found.cert.certificate.serial_number == int(serial, 16)
    rows = [row for row in ca(config, "ra", "show", "gateway").splitlines() if "\t" in row][1:]
    assert [row.split("\t")[1] for row in rows] == [f"{old.serial_number:x}", serial]
    assert "Status:       confirmed" in ca(config, "show", serial)

    told = ca(config, "ra", "install", file, "--password-file", tmp_path / "password")
    assert "Installed" in told
    new = load_certificates(config.parent / "ra" / "ra.pem", "")[0]
    assert (new.serial_number, new.subject_der) == (int(serial, 16), old.subject_der)
    assert "good." in succeeded("check-config", "--config", config)

    prefix = old.fingerprint.hex()[:12]
    told = ca(config, "ra", "remove-certificate", "gateway", prefix)
    assert "1 certificate(s) left" in told
    assert "has no certificate" in refused(config, "ra", "remove-certificate", "gateway", prefix)
    ended = run("ca", "ra", "remove-certificate", "gateway", "xyz", "--config", config)
    assert ended.exit_code == 2


def test_the_first_ra_certificate_of_a_site_can_be_revoked(config: Path) -> None:
    """`init` made it beside the ledger, which learns of it then; the ledger and its CRL agree."""
    (first, *_) = load_certificates(config.parent / "ra" / "ra.pem", "")
    serial = f"{first.serial_number:x}"
    assert table(ca(config, "list")) == []
    assert f"Revoked {serial} (keyCompromise)." in ca(
        config, "revoke", serial, "--reason", "keyCompromise"
    )
    assert [row[:2] for row in table(ca(config, "list"))] == [[serial, "revoked"]]
    ca(config, "crl")
    assert "agree" in ca(config, "verify")
    told = refused(config, "revoke", "abcd", "--reason", "keyCompromise", exit_code=1)
    assert "abcd" in told


def test_an_ra_certificate_that_nobody_would_believe_is_not_installed(
    config: Path, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """One of another operator's CA, and one that the CA in the process does not hear: the old pair stays."""
    directory, password = config.parent, tmp_path / "password"
    old = {path: path.read_bytes() for path in (directory / "ra").iterdir()}
    other = make_setup(tmp_path / "other", vendors={"acme": vendor_pki})
    issue_ra(other)
    install: list[str | Path] = ["ra", "install", "--password-file", password]
    told = refused(config, *install, other.parent / "gateway-0.p12")
    assert f"{other.parent / 'gateway-0.p12'}: devices could not verify the RA certificate" in told
    assert "Nothing was changed" in told
    issue_ra(config)
    found = pkcs12.load_pkcs12((directory / "gateway-0.p12").read_bytes(), PASSWORD.encode())
    assert found.cert is not None
    fingerprint = found.cert.certificate.fingerprint(hashes.SHA256()).hex()
    ca(config, "ra", "remove-certificate", "gateway", fingerprint)
    told = refused(config, *install, directory / "gateway-0.p12")
    assert "the bundled CA hears no RA with the certificate of" in told
    assert "ra-gateway ca ra add NAME --certificate FILE" in told
    assert {path: path.read_bytes() for path in (directory / "ra").iterdir()} == old


def test_an_ra_certificate_is_not_issued_at_random(config: Path, tmp_path: Path) -> None:
    """An existing file, an empty password, a missing role or subject: nothing is written."""
    empty = tmp_path / "empty"
    empty.touch(0o600)
    out, password = tmp_path / "ra.p12", tmp_path / "password"
    new: list[str | Path] = ["ra", "issue", "new", "--out", out, "--password-file", password]
    assert "Register it with --role" in refused(config, *new)
    assert "has no certificate so far" in refused(config, *new, "--role", "ra")
    old = ["ra", "issue", "gateway", "--out"]
    assert "is empty" in refused(config, *old, out, "--password-file", empty)
    assert "exists already" in refused(config, *old, password, "--password-file", password)
    told = refused(config, *old, out, "--password-file", tmp_path / "none", exit_code=1)
    assert "No such file" in told
    assert not out.exists()
    told = refused(config, "ra", "install", config, "--password-file", password)
    assert "cannot be read: not PKCS#12, or wrong password" in told


def test_a_password_in_place_of_its_file_is_not_printed(config: Path, tmp_path: Path) -> None:
    issue_ra(config)
    file = next(config.parent.glob("*.p12"))
    edit(config, "[ra]\n", '[ra]\nkey_password_path = "hush-hush"\n')
    told = refused(config, "ra", "install", file, "--password-file", tmp_path / "password")
    assert "ra.key_password_path" in told
    assert "hush" not in told


# --- certificates -----------------------------------------------------------------------------------------------


def test_a_certificate_is_revoked_and_listed(config: Path) -> None:
    """list, show, revoke, hold and release; the reasons that make no sense are refused."""
    first, second = issue_ra(config), issue_ra(config, "other", "--role", "ra", "--subject", "CN=o")
    assert [row[0] for row in table(ca(config, "list"))] == [second, first]
    assert [row[0] for row in table(ca(config, "list", "--entity", "CN=o"))] == [second]
    assert f"Revoked {first} (keyCompromise)." in ca(
        config, "revoke", first.upper(), "--reason", "keyCompromise"
    )
    row = table(ca(config, "list", "--status", "revoked"))[0]
    assert (row[0], row[1], row[6]) == (first, "revoked", "keyCompromise")
    assert "is revoked already" in refused(
        config, "revoke", first, "--reason", "superseded", exit_code=1
    )
    ca(config, "revoke", second, "--reason", "certificateHold")
    assert "Reason:       certificateHold" in ca(config, "show", second)
    assert "Released" in ca(config, "revoke", second, "--reason", "removeFromCRL")
    assert "Status:       confirmed" in ca(config, "show", second)
    assert "no certificate 1" in refused(
        config, "revoke", "1", "--reason", "superseded", exit_code=1
    )
    assert "was not issued here" in refused(config, "show", "1")
    for arguments in (["show", "xyz"], ["revoke", first], ["revoke", first, "--reason", "why"]):
        assert run("ca", *arguments, "--config", config).exit_code == 2
    shown = CliRunner().invoke(app, ["ca", "show", first, "--pem", "--config", str(config)])
    found = x509.load_pem_x509_certificate(shown.stdout.encode())
    assert found.serial_number == int(first, 16)


def sign(config: Path, name: str, *options: str) -> str:
    """Have a base station's certificate issued by hand, and return its serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name.from_rfc4514_string(f"CN={name},O=Example Operator")
    names = x509.SubjectAlternativeName([x509.DNSName(f"{name}.ran.example.net")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    path = config.parent / f"{name}-{len(list(config.parent.glob('*.csr')))}.csr"
    path.write_bytes(request.public_bytes(Encoding.PEM))
    told = ca(config, "sign", path, "--out", path.with_suffix(".pem"), *options)
    found = re.search(r"serial ([0-9a-f]+),", told)
    assert found is not None
    return found[1]


def listed(config: Path, *arguments: str) -> Any:
    """Return what a command prints as JSON."""
    return json.loads(ca(config, *arguments, "--json"))


def test_a_device_that_is_revoked_for_good_does_not_come_back(config: Path) -> None:
    """Without --device it may, and that is told; with it the end entity is blocked, and all it holds revoked."""
    first, second = sign(config, "enb-1"), sign(config, "enb-1")
    name = "CN=enb-1,O=Example Operator"
    other = sign(config, "enb-2")
    told = ca(config, "revoke", first, "--reason", "keyCompromise")
    assert f"The end entity {name} stays active and may have another certificate at once." in told
    assert f"ra-gateway ca revoke {first} --reason keyCompromise --device" in told
    third = sign(config, "enb-1")
    held = sign(config, "enb-1")
    ca(config, "revoke", held, "--reason", "certificateHold")
    told = ca(config, "revoke", first, "--reason", "keyCompromise", "--device")
    assert [line for line in told.splitlines() if line.startswith(("Blocked", "Revoked"))] == [
        f"Blocked {name}; `ra-gateway ca entity unblock` lets it come back.",
        *(f"Revoked {serial} (keyCompromise)." for serial in (second, third, held)),
    ]
    assert {row["serial"]: row["status"] for row in listed(config, "list")} == {
        **dict.fromkeys((first, second, third, held), "revoked"),
        other: "confirmed",
    }
    with pytest.raises(AssertionError):
        sign(config, "enb-1")
    assert "stays active" not in ca(config, "revoke", other, "--reason", "superseded", "--device")
    refusals = [(first, "removeFromCRL"), ("1", "superseded")]
    for serial, reason in refusals:
        refused(config, "revoke", serial, "--reason", reason, "--device")


def test_who_did_not_renew_is_listed(config: Path) -> None:
    """Valid, the last of its kind, and expiring within so many days: the soonest first."""
    late, soon = sign(config, "enb-1", "--days", "20"), sign(config, "enb-2", "--days", "10")
    followed = sign(config, "enb-3", "--days", "10")
    sign(config, "enb-3")
    revoked = sign(config, "enb-4", "--days", "10")
    ca(config, "revoke", revoked, "--reason", "superseded")
    assert [row[0] for row in table(ca(config, "list", "--expires-within", "30"))] == [soon, late]
    assert [row["serial"] for row in listed(config, "list", "--expires-within", "15")] == [soon]
    assert followed in [row["serial"] for row in listed(config, "list")]
    assert listed(config, "list", "--expires-within", "0") == []


def test_every_list_is_there_for_programs(config: Path) -> None:
    """JSON with names that stay, moments in RFC 3339, null for what is not there."""
    serial = issue_ra(config)
    moment = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    (certificate,) = listed(config, "list")
    assert re.fullmatch(moment, certificate.pop("not_before"))
    assert re.fullmatch(moment, certificate.pop("not_after"))
    assert certificate == {
        "serial": serial,
        "status": "confirmed",
        "entity": "CN=Example Operator RA,O=Example Operator",
        "profile": "ra",
        "requester": certificate["requester"],
        "vendor": "",
        "identity": "",
        "revoked_at": None,
        "reason": None,
    }
    ca(config, "revoke", serial, "--reason", "keyCompromise")
    shown = listed(config, "show", serial)
    assert (shown["serial"], shown["reason"]) == (serial, "keyCompromise")
    assert re.fullmatch(moment, shown["revoked_at"])
    ca(
        config,
        "entity",
        "add",
        "enb1",
        "--subject",
        "CN=enb-ä",
        "--san",
        "dns:enb1.example.net",
    )
    (entity,) = [row for row in listed(config, "entity", "list") if row["name"] == "enb1"]
    assert entity["names"] == ["dns:enb1.example.net"]
    assert (entity["status"], entity["enroll_until"]) == ("active", None)
    assert listed(config, "entity", "show", "enb1") == entity | {"certificates": []}
    (role,) = listed(config, "role", "list")
    assert (role["name"], role["others"]) == ("ra", False)
    assert role["privileges"] == ["issue", "update", "revoke"]
    assert listed(config, "role", "show", "ra") == role | {"members": ["gateway"]}
    (authority,) = listed(config, "ra", "list")
    assert (authority["name"], authority["status"], authority["certificates"]) == (
        "gateway",
        "active",
        2,
    )
    assert len(listed(config, "ra", "show", "gateway")["certificates"]) == 2
    profiles = {row["name"]: row for row in listed(config, "profiles")}
    assert profiles["ne_ipsec"]["base"] is None
    assert profiles["ne_ipsec"]["san_required"] in (True, False)
    expiries = json.loads(succeeded("ca", "expiries", config.parent / "ca", "--json"))
    assert {row["file"] for row in expiries} >= {"root.pem", "issuing.pem", "cmp.pem"}
    assert all(re.fullmatch(moment, row["not_after"]) for row in expiries)


def test_commands_work_beside_a_ca_that_serves(config: Path, tmp_path: Path) -> None:
    """Whoever serves keeps the ledger open, and every command does what it does."""
    with CAProcess(config):
        serial = issue_ra(config)
        ca(config, "entity", "add", "enb1", "--subject", "CN=enb1")
        ca(config, "revoke", serial, "--reason", "superseded")
        assert re.search(r"CRL \d+, until", ca(config, "crl"))
        ca(config, "backup", tmp_path / "dump")
        assert "agree" in ca(config, "verify")


# --- the ledger -------------------------------------------------------------------------------------------------


def test_a_ledger_moves_to_postgresql(config: Path, tmp_path: Path, postgres_url: str) -> None:
    """backup, migrate, restore: the other database has all of it; what is wrong is refused."""
    serial = issue_ra(config)
    file = tmp_path / "dump"
    assert re.match(rf"Wrote \d+ rows to {file}", ca(config, "backup", file))
    assert "exists already" in refused(config, "backup", file)
    assert "the ledger is not empty" in refused(config, "restore", file)
    url = config.parent / "url"
    url.touch(0o600)
    url.write_text(postgres_url)
    edit(config, 'ledger_path = "ca/ledger.sqlite"', 'ledger_url_path = "url"')
    assert "ra-gateway ca migrate" in refused(config, "restore", file)
    for _ in range(2):
        assert ca(config, "migrate") == "The ledger has the tables of this release.\n"
    assert "Restored" in ca(config, "restore", file)
    assert "agree" in ca(config, "verify", "--sample", "1")
    assert [row[0] for row in table(ca(config, "list"))] == [serial]
    file.write_bytes(file.read_bytes()[:-9])
    assert "is not a complete, unaltered dump" in refused(config, "restore", file)
    assert "No such file" in refused(config, "restore", tmp_path / "none", exit_code=1)


def test_a_restore_says_whether_the_checkpoints_go_on(config: Path, tmp_path: Path) -> None:
    """What was done after the backup is in them alone: they are moved away, or `ca verify` finds it missing."""
    issue_ra(config)
    file, checkpoints = tmp_path / "dump", config.parent / "ca" / "checkpoints"
    ca(config, "backup", file)
    elsewhere = 'ledger_path = "ca/{}.sqlite"'.format
    edit(config, elsewhere("ledger"), elsewhere("same"))
    assert len(ca(config, "restore", file).splitlines()) == 2
    assert "agree" in ca(config, "verify")
    ca(config, "entity", "add", "late", "--subject", "CN=late")
    ca(config, "verify")
    edit(config, elsewhere("same"), elsewhere("older"))
    _, hint, after = ca(config, "restore", file).splitlines()
    assert f"Move {checkpoints} away" in hint
    assert after == "Next: ra-gateway ca verify"
    assert "checkpoint" in refused(config, "verify", exit_code=1)
    checkpoints.rename(tmp_path / "checkpoints")
    assert "agree" in ca(config, "verify")


def test_the_ledger_of_another_ca_is_named(
    config: Path, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """It is not restored, and not good: nothing below this CA would be known to it."""
    other = make_setup(tmp_path / "other", vendors={"acme": vendor_pki})
    issue_ra(other)
    ca(other, "backup", tmp_path / "dump")
    same = 'ledger_path = "ca/ledger.sqlite"'
    edit(config, same, 'ledger_path = "ca/new.sqlite"')
    told = refused(config, "restore", tmp_path / "dump")
    assert f"{tmp_path / 'dump'}: is of another CA: its certificates and CRLs are of CN=" in told
    assert "ca.directory_path" in told
    assert table(ca(config, "ra", "list")) == []
    edit(config, 'ledger_path = "ca/new.sqlite"', 'ledger_path = "../other/ca/ledger.sqlite"')
    assert "ledger: is of another CA" in refused(config, "verify")


def test_findings_are_told_and_fail(config: Path) -> None:
    """verify is exit code 1 when something does not agree: every finding is a line."""
    serial = issue_ra(config)
    database = sqlite3.connect(config.parent / "ca" / "ledger.sqlite")
    with database:
        database.execute("UPDATE certificates SET not_after = 0 WHERE serial = ?", [serial])
    database.close()
    told = refused(config, "verify", exit_code=1).splitlines()
    assert told[0].startswith(f"certificate {serial}: its row has another end of validity")
    assert told[1].startswith(f"certificate {serial}: its row has another validity than the cert")
    assert told[2:] == ["2 finding(s)."]
    ended = run("ca", "verify", "--json", "--config", config)
    found = json.loads(ended.stdout)
    assert (ended.exit_code, ended.stderr, found["good"]) == (1, "", False)
    assert [list(finding) for finding in found["findings"]] == [["where", "what", "todo"]] * 2
    assert found["findings"][0]["where"] == f"certificate {serial}"


def test_a_good_ledger_is_told_to_programs(config: Path) -> None:
    """How many checkpoints there are, and when the last one was made; a file that cannot be written is a note."""
    none = {"good": True, "findings": [], "older_lines": 0}
    before = json.loads(ca(config, "verify", "--json"))
    assert before == none | {"checkpoints": 0, "last_checkpoint": None}
    after = json.loads(ca(config, "verify", "--json"))
    assert after["checkpoints"] == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", after["last_checkpoint"])
    ended = run(
        "ca", "verify", "--json", "--config", config, "--set", "ca.checkpoints_path=/proc/none"
    )
    assert json.loads(ended.stdout)["good"] is True
    assert "No checkpoint was written to /proc/none" in ended.stderr


# --- keys and certificates of the CA ----------------------------------------------------------------------------


def test_the_ca_grows_old_and_is_renewed(config: Path, tmp_path: Path) -> None:
    """Signers, issuing CA and root change; what was issued and its CRLs go on."""
    directory = config.parent / "ca"
    serial = issue_ra(config)
    ca(config, "revoke", serial, "--reason", "superseded")
    assert succeeded("ca", "renew-signers", directory, "--within-days", "30") == "None is due.\n"
    assert "Made cmp.pem, ocsp.pem." in succeeded("ca", "renew-signers", directory)
    assert "Issuing CA G2" in succeeded("ca", "roll-issuing", directory)
    assert "Root CA" in succeeded("ca", "roll-root", directory)
    files = [row[1] for row in table(succeeded("ca", "expiries", directory))]
    assert {"retired/1/issuing.pem", "old-root.pem", "issuing.pem", "cmp.pem"} <= set(files)
    assert len(ca(config, "crl").splitlines()) == 2
    assert "agree" in ca(config, "verify")


def test_a_ca_is_made_and_imported(tmp_path: Path) -> None:
    """create with a password, import of its issuing CA elsewhere, issue-ra; nothing is overwritten."""
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    one, two = tmp_path / "one", tmp_path / "two"
    secret: list[str | Path] = ["--password-file", password]
    told = succeeded("ca", "create", one, "--organisation", "Op", "--key-kind", "p384", *secret)
    assert f"to {one}.\n" in told
    assert b"ENCRYPTED" in (one / "issuing.key").read_bytes()
    assert run("ca", "create", one).exit_code == 2
    source: list[str | Path] = ["--certificate", one / "issuing.pem", "--key", one / "issuing.key"]
    source += ["--chain", one / "root.pem", "--key-password", password]
    assert "Wrote the imported CA" in succeeded("ca", "import", two, *source)
    assert (two / "issuing.pem").read_bytes() == (one / "issuing.pem").read_bytes()
    told = succeeded("ca", "issue-ra", two, tmp_path / "ra", "--subject", "CN=ra,O=Op")
    assert f"ra-gateway ca ra add NAME --role ROLE --certificate {tmp_path}/ra/ra.pem" in told
    wrong = run("ca", "create", tmp_path / "three", "--key-uri", "root=file:///x")
    assert wrong.exit_code == 2
    assert not (tmp_path / "three").exists()


def test_profiles_are_listed(config: Path) -> None:
    """Built-in ones and the configured ones, the default one first and marked."""
    config.write_text(
        config.read_text() + '\n[ca.profiles.small]\nbase = "seg"\nvalidity_days = 30\n'
    )
    rows = table(ca(config, "profiles"))
    assert rows[0][:2] == ["trial (default)", "ne_ipsec"]
    assert rows[1][:2] == ["ne_ipsec", "built in"]
    assert ["small", "seg", "30"] in [row[:3] for row in rows]


# --- a configuration of the CA alone ----------------------------------------------------------------------------


def of_ca_alone(config: Path) -> Path:
    """Write what `ca serve` reads of a gateway's configuration into a file of its own, with client mode."""
    path = config.parent / "ca.toml"
    path.write_text(
        '[ca]\ndirectory_path = "ca"\nledger_path = "ca/ledger.sqlite"\ndomains = ["example.net"]\n'
        'crl_url = "http://crl.example.net/{issuer}.crl"\n\n[ca.server]\nlisten_port = 0\n'
        "\n[ca.status]\nlisten_port = 0\n"
        '\n[ca.client]\nvendors = ["acme"]\n'
        '\n[vendors.acme]\nanchors_paths = ["acme/root.pem"]\nintermediates_paths = ["acme/sub.pem"]\n'
    )
    return path


def test_the_configuration_of_a_ca_alone_is_checked(config: Path) -> None:
    """It has no table of a gateway; what is unsafe is warned of, and in the log of `ca serve`; no trace is left."""
    alone = of_ca_alone(config)
    before = {path: path.read_bytes() for path in config.parent.rglob("*") if path.is_file()}
    good, warning = succeeded("check-config", "--config", alone).splitlines()
    assert good == f"{alone}: good. A CA in RA mode and in client mode, 1 vendor(s)."
    assert warning.startswith(f"warning: {config.parent}/ca/root.key: is the key of a root")
    after = {path: path.read_bytes() for path in config.parent.rglob("*") if path.is_file()}
    assert after == before
    with CAProcess(alone) as served:
        (line,) = (line for line in served.log.splitlines() if "config.warning" in line)
        assert "Move it offline" in line
    (config.parent / "ca" / "root.key").unlink()
    (config.parent / "acme" / "root.pem").chmod(0o646)
    good, warning = succeeded("check-config", "--config", alone).splitlines()
    assert warning.startswith("warning: vendors.acme.anchors_paths: ")


def test_the_doctor_looks_at_a_ca_alone(config: Path) -> None:
    """Its certificates, its ledger and what is unsafe; what would keep it from starting is a fault."""
    alone = of_ca_alone(config)
    ended = run("doctor", "--json", "--config", alone)
    rows = json.loads(ended.stdout)
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert {row["subject"] for row in rows} == {
        "CA",
        "ledger",
        "registered RAs",
        "safety",
        "codec",
    }
    assert {row["tried"] for row in rows} >= {"validity of issuing.pem", "validity of ocsp.pem"}
    (warning,) = (row for row in rows if row["verdict"] == "warning")
    assert warning["tried"] == f"{config.parent}/ca/root.key"
    (config.parent / "ca" / "cmp.key").write_bytes((config.parent / "ra" / "ra.key").read_bytes())
    table = '[vendors.acme.revocation]\nmode = "hard"\ncrl_urls = ["http://127.0.0.1:1/a.crl"]\n'
    alone.write_text(f"{alone.read_text()}\n{table}")
    ended = run("doctor", "--json", "--quiet", "--config", alone)
    assert ended.exit_code == 1
    faults = [row for row in json.loads(ended.stdout) if row["verdict"] == "fault"]
    assert [row["subject"] for row in faults] == ["CA", "vendor acme", "vendor acme"]


def test_what_is_wrong_with_the_configuration_of_a_ca_alone(config: Path) -> None:
    """Settings and files are told by their place; a gateway's file that lacks a table is a gateway's still."""
    alone = of_ca_alone(config)
    edit(alone, 'vendors = ["acme"]', 'vendors = ["other"]\ncolour = "red"')
    assert wrong_settings(alone) == ["ca.client.colour", "ca.client.vendors[0]"]
    alone = of_ca_alone(config)
    (config.parent / "ca" / "issuing.key").unlink()
    assert "ca.directory_path" in run("check-config", "--config", alone).stderr
    alone.write_text(alone.read_text() + '\n[operator]\nanchors_paths = ["operator/root.pem"]\n')
    assert "endpoints: is required" in run("check-config", "--config", alone).stderr
