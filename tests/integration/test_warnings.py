"""What `check-config` and the doctor say of a gateway that can be served, and is less safe than it looks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from ra_gateway.app.unused import of_inventory
from ra_gateway.app.warnings import of_ca_expiry, warnings
from ra_gateway.config.reading import load
from ra_gateway.keys import load_private_key
from tests.support.commandline import run, succeeded
from tests.support.crls import make_crl
from tests.support.openssl import load_certificate
from tests.support.pki import Authority, VendorPKI, make_root, write_certificates
from tests.support.processes import GatewayProcess
from tests.support.setups import edit, http_upstream, keep_to_the_standard, make_setup, set_upstream


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """A gateway that nothing is to be said of."""
    path = make_setup(tmp_path, vendors={"acme": vendor_pki})
    edit(path, 'allowed_subjects = ["*"]', f"allowed_subjects = [{NAME}]")
    edit(path, 'allowed_sans = ["*"]', 'allowed_sans = ["dns:{cn}.ran.example.net"]')
    (tmp_path / "ca" / "root.key").unlink()
    keep_to_the_standard(path)
    assert "warning" not in succeeded("check-config", "--config", path)
    return path


Change = Callable[[Path], None]

SUBJECTS = "vendors.acme.identity.allowed_subjects"
SANS = "vendors.acme.identity.allowed_sans"
ANY = "may have the name of any"
OFFLINE = "Move it offline"
NAME = '"CN={cn}.ran.example.net,O=Example Operator"'
SAN = '"dns:{cn}.ran.example.net"'

CASES: dict[str, tuple[Change, str, str]] = {}
"""What is done to the configuration, which setting the warning names, and what it advises."""


def warned_of(case: str, where: str, todo: str) -> Callable[[Change], Change]:
    """Make a change to a configuration a case."""

    def add(change: Change) -> Change:
        CASES[case] = change, where, todo
        return change

    return add


@warned_of(
    "a vendor may use up what is everybody's",
    "vendors.acme.requests_per_second",
    "Set it below limits.requests_per_second",
)
def a_vendor_as_fast_as_all(config: Path) -> None:
    edit(config, "[vendors.acme]\n", "[vendors.acme]\nrequests_per_second = 50.0\n")
    config.write_text(config.read_text() + "\n[limits]\nrequests_per_second = 50.0\n")


@warned_of(
    "any subject for one RA",
    "endpoints.ran.registration_authorities.rights[0].allowed_subjects",
    ANY,
)
def any_subject_for_one_ra(config: Path) -> None:
    table = "endpoints.ran.registration_authorities"
    of_one = 'certificate_paths = ["ra/ra.pem"]\nallowed_subjects = ["*"]\n'
    added = f'\n[{table}]\ncertificate_paths = ["ra/ra.pem"]\n\n[[{table}.rights]]\n{of_one}'
    config.write_text(config.read_text() + added)


@warned_of(
    "everybody may ask the management listener",
    "management.listen_host",
    "add [management.tls] with client_ca_paths",
)
def management_for_everybody(config: Path) -> None:
    config.write_text(f'{config.read_text()}\n[management]\nlisten_host = "0.0.0.0"\n')


@warned_of("a looser profile", "ca.profiles.worse", "Keep it for devices that cannot do better")
def a_looser_profile(config: Path) -> None:
    worse = '[ca.profiles.worse]\nbase = "seg"\nsan_required = false\n'
    shorter = '[ca.profiles.shorter]\nbase = "seg"\nvalidity_days = 9\n'
    config.write_text(f"{config.read_text()}\n{worse}\n{shorter}")


@warned_of("names of any domain", "ca.domains", "List the domains of your devices")
def any_domain(config: Path) -> None:
    edit(config, 'domains = ["ran.example.net"]\n', "")


@warned_of(
    "an RA that nobody can look up",
    "ra.certificate_path",
    "ca issue-ra --san dns:HOST --crl-url URL",
)
def an_ra_without_names(config: Path) -> None:
    for name in ("ra.pem", "ra.key"):
        (config.parent / "ra" / name).unlink()
    succeeded("ca", "issue-ra", config.parent / "ca", config.parent / "ra")


@warned_of("root key", "ca/root.key", OFFLINE)
def root_key(config: Path) -> None:
    (config.parent / "ca" / "root.key").write_text("-----BEGIN")
    (config.parent / "ca" / "root.key").chmod(0o600)


@warned_of("retired root key", "ca/retired-roots/1/root.key", OFFLINE)
def retired_root_key(config: Path) -> None:
    path = config.parent / "ca" / "retired-roots" / "1" / "root.key"
    path.parent.mkdir(parents=True)
    path.touch(0o600)


@warned_of("anchor's key", "operator/root.key", OFFLINE)
def key_of_the_anchor(config: Path) -> None:
    (config.parent / "operator" / "root.key").touch(0o600)


@warned_of("remote CA", "operator.revocation.mode", 'Set it to "hard"')
def remote_without_revocation(config: Path) -> None:
    set_upstream(config, http_upstream("http://127.0.0.1:1/cmp"))


@warned_of("no issuing CA", "operator.intermediates_paths", "List the operator's own")
def no_issuing_ca(config: Path) -> None:
    edit(config, 'intermediates_paths = ["operator/issuing.pem"]\n', "")


def hard(config: Path) -> None:
    remote_without_revocation(config)
    table = '[operator.revocation]\nmode = "hard"\ncrl_urls = ["http://127.0.0.1:1/issuing.crl"]\n'
    config.write_text(f"{config.read_text()}\n{table}")


@warned_of(
    "no CRL of the root",
    "operator.revocation.mode",
    "List it in operator.intermediates_paths, or add the CRL of CN=Example Operator Root CA",
)
def hard_for_a_ca_not_listed(config: Path) -> None:
    hard(config)
    edit(config, 'intermediates_paths = ["operator/issuing.pem"]\n', "")


@warned_of("no CRL of a vendor's root", "vendors.acme.revocation.mode", "Add the CRL of CN=")
def hard_for_a_sub_ca(config: Path) -> None:
    edit(
        config,
        'anchors_paths = ["acme/root.pem"]',
        'anchors_paths = ["acme/root.pem"]\nintermediates_paths = ["acme/sub.pem"]',
    )
    table = '[vendors.acme.revocation]\nmode = "hard"\nocsp_url = "http://127.0.0.1:1/ocsp"\n'
    config.write_text(f"{config.read_text()}\n{table}")


def open_to_others(
    name: str, mode: int, make: Callable[[Path], object] = Path.touch
) -> Callable[[Path], None]:
    """Return what gives a file of the setup a mode; it is made where there is none."""

    def change(config: Path) -> None:
        make(config.parent / name)
        (config.parent / name).chmod(mode)

    return change


@warned_of("checkpoints", "ca.checkpoints_path", "chmod go-w")
def open_checkpoints(config: Path) -> None:
    open_to_others("kept", 0o777, Path.mkdir)(config)
    edit(config, "ledger_path =", 'checkpoints_path = "kept/checkpoints"\nledger_path =')


@warned_of("delta CRLs", "ca.status.delta_minutes", "Set it to 0")
def delta_crls(config: Path) -> None:
    edit(config, "[ca.status]\n", "[ca.status]\ndelta_minutes = 30\n")


@warned_of("one root for two vendors", "vendors.second.anchors_paths", "make one vendor of the two")
def one_root_for_two_vendors(config: Path) -> None:
    text = config.read_text()
    begin = text.index("[vendors.acme]")
    ends = re.compile(r"^\[(?!vendors\.acme)", re.MULTILINE).search(text, begin)
    table = text[begin : ends.start() if ends else None].replace("vendors.acme", "vendors.second")
    config.write_text(f"{text}\n{table}")
    edit(config, 'vendors = ["acme"]', 'vendors = ["acme", "second"]')


def replaced(old: str, new: str) -> Change:
    """Return what replaces a piece of the configuration."""
    return lambda config: edit(config, old, new)


@warned_of("a vendor in no endpoint", "vendors.rivet: ", 'Add "rivet" to vendors of an endpoint')
def a_vendor_in_no_endpoint(config: Path) -> None:
    rivet = f'[vendors.rivet]\nanchors_paths = ["acme/root.pem"]\n[vendors.rivet.identity]\nallowed_subjects = [{NAME}]'
    config.write_text(f"{config.read_text()}\n{rivet}\n")


@warned_of(
    "an upstream that nobody names", "upstreams.other: ", "Name it in an endpoint or a route"
)
def an_upstream_that_nobody_names(config: Path) -> None:
    config.write_text(f'{config.read_text()}\n[upstreams.other]\nkind = "bundled"\n')


@warned_of("an inventory that nobody looks at", "inventory: ", 'Set inventory = "required"')
def an_inventory_that_nobody_looks_at(config: Path) -> None:
    inventory(config, "acme,1,,,true")


def inventory(config: Path, *lines: str) -> None:
    """Give a configuration an inventory."""
    header = "domain,identity,subject,san,enabled"
    (config.parent / "devices.csv").write_text("\n".join((header, *lines, "")))
    config.write_text(f'{config.read_text()}\n[inventory]\ncsv_path = "devices.csv"\n')


def crl_of(config: Path, days: int) -> None:
    """Have the operator's CRL read from a file that is good for so many days of a hundred."""
    end = datetime.now(UTC) + timedelta(days=days)
    key = load_private_key(config.parent / "ca" / "issuing.key", None, "key")
    issuing = Authority(load_certificate(config.parent / "operator" / "issuing.pem"), key)
    crl = make_crl(issuing, this_update=end - timedelta(days=100), lifetime=timedelta(days=100))
    (config.parent / "issuing.crl").write_bytes(crl)
    table = '[operator.revocation]\nmode = "soft"\ncrl_paths = ["issuing.crl"]\n'
    config.write_text(f"{config.read_text()}\n{table}")


CASES |= {
    "a subject of another domain": (
        replaced(NAME, '"CN={cn}.other.example,O=Example Operator"'),
        "vendors.acme.identity: makes or allows only names that ne_ipsec",
        "Write names as the CA certifies them; or change ca.domains",
    ),
    "a subject of another organisation": (
        replaced(NAME, '"CN={cn}.ran.example.net,O=Other"'),
        "O is none of the operator's own",
        "ca.organisations",
    ),
    "a subject of another form": (
        replaced(NAME, '"CN={cn}.ran.example.net"'),
        "the subject is not of the form",
        "ca.profile",
    ),
    "a template of another domain": (
        replaced(
            'subject = "keep"',
            'subject = "replace"\nsubject_template = "CN={host}.x.example,O=Example Operator"',
        ),
        "lies in no domain of the operator",
        "ca.domains",
    ),
    "names of another domain": (
        replaced('subject = "keep"', 'subject = "keep"\nsan_template = ["dns:{host}.x.example"]'),
        "lies in no domain of the operator",
        "ca.domains",
    ),
    "any subject": (replaced(NAME, '"CN=a.example", "*"'), SUBJECTS, ANY),
    "any CN": (replaced(NAME, f'"CN=*", {NAME}'), SUBJECTS, ANY),
    "a shared CN": (
        replaced(NAME, '"CN=*.ran.example.net,O=Example Operator"'),
        SUBJECTS,
        "of any other that fits",
    ),
    "any SAN": (replaced(SAN, '"dns:*"'), SANS, ANY),
    "any host name": (replaced(SAN, '"dns:*.*"'), SANS, ANY),
    "ledger": (open_to_others("ca/ledger.sqlite", 0o644), "ca.ledger_path", "chmod 600"),
    "ledger's log": (open_to_others("ca/ledger.sqlite-wal", 0o660), "ca.ledger_path", "chmod 600"),
    "configuration": (open_to_others("gateway.toml", 0o664), "gateway.toml", "chmod go-w"),
    "anchors": (open_to_others("acme/root.pem", 0o646), "vendors.acme.anchors_paths", "chmod go-w"),
    "directory": (open_to_others("ca", 0o777), "ca.", "chmod go-w"),
    "directory below": (
        open_to_others("ca/retired", 0o770, Path.mkdir),
        "ca.directory_path",
        "chmod go-w",
    ),
    "CA's certificate": (
        open_to_others("ca/issuing.pem", 0o664),
        "ca.directory_path",
        "issuing.pem",
    ),
}


def intermediate(certificate: x509.Certificate) -> Change:
    """Return what lists another CA of a vendor."""

    def change(config: Path) -> None:
        write_certificates(config.parent / "more.pem", certificate)
        anchors = 'anchors_paths = ["acme/root.pem"]'
        edit(config, anchors, f'{anchors}\nintermediates_paths = ["more.pem"]')

    return change


def crl_is(octets: Callable[[Path], bytes], mode: str = "soft") -> Change:
    """Return what gives a vendor a file of CRLs."""

    def change(config: Path) -> None:
        (config.parent / "acme.crl").write_bytes(octets(config))
        table = f'[vendors.acme.revocation]\nmode = "{mode}"\ncrl_paths = ["acme.crl"]\n'
        config.write_text(f"{config.read_text()}\n{table}")

    return change


STRANGER = make_root("Stranger")


def strangers_crl() -> bytes:
    return make_crl(STRANGER, this_update=datetime.now(UTC), lifetime=timedelta(days=100))


CASES |= {
    "a device among the intermediates": (
        intermediate(STRANGER.issue("enb-1").certificate),
        "vendors.acme.intermediates_paths: CN=enb-1 is no CA certificate",
        "a device brings its own",
    ),
    "an intermediate of another root": (
        intermediate(STRANGER.issue_ca("Stranger Sub").certificate),
        "vendors.acme.intermediates_paths: CN=Stranger Sub, of CN=Stranger",
        "List its root in vendors.acme.anchors_paths",
    ),
    "the operator's root as a vendor's": (
        replaced('anchors_paths = ["acme/root.pem"]', 'anchors_paths = ["operator/root.pem"]'),
        "vendors.acme.anchors_paths: CN=Example Operator Root CA,O=Example Operator is an anchor of the operator too",
        "List the vendor's own root",
    ),
    "a CRL that is none": (
        crl_is(lambda config: (config.parent / "acme" / "root.pem").read_bytes()),
        "vendors.acme.revocation.crl_paths: ",
        "Put the CRL of the CA there",
    ),
    "a CRL of somebody else": (
        crl_is(lambda _: strangers_crl()),
        "neither among the anchors nor among the intermediates",
        "List that CA in intermediates_paths",
    ),
    "CRLs that nobody looks at": (
        crl_is(lambda _: strangers_crl(), "off"),
        "vendors.acme.revocation.mode: is off, so that nobody looks at crl_paths",
        'Set it to "hard"',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_warned_of(case: str, config: Path) -> None:
    """By both commands in the same words, with what to do; check-config is content all the same."""
    change, where, todo = CASES[case]
    change(config)
    lines = [
        line
        for line in succeeded("check-config", "--config", config).splitlines()
        if "warning: " in line
    ]
    assert len(lines) == 1
    assert where in lines[0]
    assert todo in lines[0]
    rows = json.loads(run("doctor", "--json", "--quiet", "--config", config).stdout)
    (row,) = (row for row in rows if row["subject"] == "safety")
    assert row["verdict"] == "warning"
    assert (
        lines[0]
        == f"warning: {row['tried']}: {row['came_back']}. {row['setting'].partition(': ')[2]}"
    )


@pytest.mark.parametrize(
    "days, said", [(26, ""), (24, "is good until"), (-1, "was good until")], ids=str
)
def test_a_crl_in_a_file_is_warned_of_in_the_last_quarter_of_its_life(
    days: int, said: str, config: Path
) -> None:
    """However short that is: whoever replaces it each day needs no warning."""
    crl_of(config, days)
    found = warnings(load(config), datetime.now(UTC))
    assert [problem.path for problem in found] == ["operator.revocation.crl_paths"] * bool(said)
    assert all(said in problem.what for problem in found)


def test_lines_of_the_inventory_that_help_nobody(config: Path) -> None:
    """Of a vendor that there is not, and two devices with one subject however it is written; each with its line."""
    edit(config, "[vendors.acme.identity]", '[vendors.acme.identity]\ninventory = "optional"')
    inventory(
        config,
        "foo,1,,,true",
        'acme,2,"CN=a,O=Example Operator",,true',
        'acme,3,"cn=A, O = Example  Operator",,true',
        "acme,4,CN={serial_number},,true",
        "acme,5,CN={serial_number},,true",
        *(f"bar,{number},,,true" for number in range(6)),
    )
    said = [
        line.partition("devices.csv:")[2]
        for line in succeeded("check-config", "--config", config).splitlines()
        if "devices.csv:" in line
    ]
    assert said[0].startswith("2: there is no vendor 'foo'")
    assert "Write one of: acme" in said[0]
    assert said[1].startswith("4: has the subject of line 3")
    assert [line[:1] for line in said[2:6]] == ["7", "8", "9", "1"]
    assert "2 more lines with such a vendor" in said[6]
    rows = json.loads(run("doctor", "--json", "--quiet", "--config", config).stdout)
    assert sum(row["subject"] == "inventory" for row in rows) == 7


def test_a_successor_gets_the_name_of_the_device_it_replaces(config: Path) -> None:
    """A device that is not enabled shares no name; of those that are, each has names of its own."""
    edit(config, "[vendors.acme.identity]", '[vendors.acme.identity]\ninventory = "optional"')
    inventory(
        config,
        "acme,1,CN=a,dns:a.example.net,false",
        "acme,2,CN=a,dns:a.example.net dns:{cn}.example.net,true",
        "acme,3,CN=c,dns:A.example.net dns:{cn}.example.net,true",
    )
    said = [str(problem) for problem in of_inventory(load(config))]
    assert len(said) == 1
    assert "devices.csv:4: has 'dns:A.example.net' of line 3" in said[0]


def test_what_is_advised_for_a_remote_ca_is_not_warned_of(config: Path) -> None:
    """Its CRL, and its issuing CA listed."""
    hard(config)
    assert warnings(load(config), datetime.now(UTC)) == []


@pytest.mark.parametrize("root", ["acme", "operator"])
def test_a_ca_that_answers_below_a_root_of_somebody_else(root: str, config: Path) -> None:
    """Of the CAs below it none is listed; below the operator's, those of `operator.intermediates_paths` are."""
    hard(config)
    edit(
        config,
        'kind = "cmp_http"\n',
        f'kind = "cmp_http"\ntrust_anchors_paths = ["{root}/root.pem"]\n',
    )
    expected = ["upstreams.bundled.trust_anchors_paths"] if root == "acme" else []
    assert [found.path for found in warnings(load(config), datetime.now(UTC))] == expected


def test_a_service_says_so_when_it_starts(config: Path) -> None:
    """One line of the log for each; a gateway that nothing is to be said of has none."""
    with GatewayProcess(config) as gateway:
        assert "config.warning" not in gateway.log
    root_key(config)
    open_to_others("gateway.toml", 0o664)(config)
    expired_anchor(config)
    with GatewayProcess(config) as gateway:
        lines = [line for line in gateway.log.splitlines() if "config.warning" in line]
    assert len(lines) == 3
    assert "chmod go-w" in lines[0]
    assert "Move it offline" in lines[1]
    assert "CN=Old Root,O=ACME expired at" in lines[2]


def expired_anchor(config: Path, days: int = -1) -> None:
    """Give the vendor a root that ends in so many days."""
    now = datetime.now(UTC)
    root = make_root(
        "CN=Old Root,O=ACME",
        not_before=now - timedelta(days=1000),
        not_after=now + timedelta(days=days),
    )
    (config.parent / "acme" / "root.pem").unlink()
    write_certificates(config.parent / "acme" / "root.pem", root.certificate)


def test_a_vendor_that_nobody_comes_by_at_a_ca_by_itself(config: Path) -> None:
    """What is not in ca.client.vendors; where a gateway reads the same file, its vendors are its own."""
    assert "client.vendors" not in succeeded("check-config", "-c", config)
    vendor = '[vendors.acme]\nanchors_paths = ["acme/root.pem"]\n'
    table = re.findall(r"(?ms)^(\[ca[^\n]*\]\n.*?)(?=^\[(?!ca)|\Z)", config.read_text())
    alone = config.with_name("ca.toml")
    alone.write_text("\n".join([*table, vendor]))
    assert "vendors.acme: is not in ca.client.vendors" in succeeded("check-config", "-c", alone)
    alone.write_text("\n".join(table))
    assert "client.vendors" not in succeeded("check-config", "-c", alone)
    alone.write_text("\n".join([*table, '[ca.client]\nvendors = ["acme"]\n', vendor]))
    assert "client.vendors" not in succeeded("check-config", "-c", alone)


def test_an_intermediate_that_leads_nowhere_at_a_ca_by_itself(config: Path) -> None:
    """Its clients' vendors are looked at as a gateway's are."""
    write_certificates(config.parent / "more.pem", STRANGER.issue_ca("Stranger Sub").certificate)
    vendor = (
        '[vendors.acme]\nanchors_paths = ["acme/root.pem"]\nintermediates_paths = ["more.pem"]\n'
    )
    table = re.findall(r"(?ms)^(\[ca[^\n]*\]\n.*?)(?=^\[(?!ca)|\Z)", config.read_text())
    alone = config.with_name("ca.toml")
    alone.write_text("\n".join([*table, '[ca.client]\nvendors = ["acme"]\n', vendor]))
    said = "warning: vendors.acme.intermediates_paths: CN=Stranger Sub, of CN=Stranger, leads to none of the anchors"
    assert said in succeeded("check-config", "-c", alone)


def test_a_key_in_an_hsm_is_not_beside(config: Path) -> None:
    """A file that names it is not the key."""
    (config.parent / "ca" / "root.key").write_text("pkcs11:token=t;object=root?pin-source=pin\n")
    (config.parent / "ca" / "root.key").chmod(0o600)
    assert warnings(load(config), datetime.now(UTC)) == []


def test_the_ca_s_own_certificates_that_end(config: Path) -> None:
    """In the last 30 days, and after; what is told of each is its file."""
    settings = load(config)
    assert settings.ca is not None
    now = datetime.now(UTC)
    assert [*of_ca_expiry(settings.ca, now)] == []
    later = [problem.what for problem in of_ca_expiry(settings.ca, now + timedelta(days=36500))]
    assert any(what.startswith("cmp.pem, ") and "expired at" in what for what in later)
    assert any(what.startswith("root.pem, ") for what in later)


@pytest.mark.parametrize(
    "days,said", [(91, ""), (89, "expires in 88 days"), (-1, "expired at")], ids=str
)
def test_certificates_that_end(days: int, said: str, config: Path) -> None:
    """A vendor's anchor: 90 days before, and after; the gateway is served all the same."""
    now = datetime.now(UTC)
    expired_anchor(config, days)
    found = warnings(load(config), now)
    assert [problem.path for problem in found] == (["vendors.acme.anchors_paths"] if said else [])
    assert all(said in problem.what for problem in found)
    assert ("warning" in succeeded("check-config", "--config", config)) == bool(said)


def test_the_ras_own_certificate(config: Path) -> None:
    """And the certificates above it, when their time has come."""
    later = datetime.now(UTC) + timedelta(days=365 * 40)
    found = {problem.path for problem in warnings(load(config), later)}
    assert found >= {"ra.certificate_path", "ra.chain_paths", "operator.anchors_paths"}


def test_what_a_ca_is_sent(config: Path) -> None:
    """check-config says which certificates go up, and that the root does not unless it is wanted."""
    set_upstream(config, http_upstream("http://127.0.0.1:9/cmp"))
    (said,) = sent(config)
    assert ".send_root" in said
    edit(config, 'kind = "cmp_http"', 'kind = "cmp_http"\nsend_root = true')
    (whole,) = sent(config)
    root = said.partition("; not the root ")[2].partition(", unless ")[0]
    assert root
    assert whole == f"{said.partition('; not the root')[0]}; {root}."


def sent(config: Path) -> list[str]:
    lines = succeeded("check-config", "--config", config).splitlines()
    return [line for line in lines if "is sent the certificates" in line]
