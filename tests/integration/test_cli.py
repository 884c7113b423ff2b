"""The command line as its users meet it: arguments, files, exit codes, and what it says when it fails.

Commands that need no server run in this process; those that do talk to a gateway process.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ra_gateway import __version__
from ra_gateway.app.running import Service
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.names import general_names
from ra_gateway.keys import load_certificates, write_private_key
from tests.support import dialogue
from tests.support.commandline import PASSWORD, Ended, run, succeeded, wrong_settings
from tests.support.pki import OperatorPKI, VendorPKI, make_key, make_root, write_certificates
from tests.support.ports import free_port
from tests.support.processes import GatewayProcess
from tests.support.setups import edit, make_setup


def snapshot(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def readable_by_others(directory: Path) -> list[Path]:
    """Return the private keys below a directory that others than their owner may open."""
    keys = [
        path for path in directory.rglob("*") if path.suffix == ".key" or path.name == "key.pem"
    ]
    assert keys
    return [path for path in keys if stat.S_IMODE(path.stat().st_mode) != 0o600]


# --- help and version -----------------------------------------------------------------------------

OPTIONS: Final = {
    "": "--version init serve check-config enroll renew show demo ca",
    "init": "--organisation --vendor --port --key-kind",
    "serve": "--config",
    "check-config": "--config",
    "enroll": "--url --cert --key --key-password --out --chain --subject --san --trusted "
    "--implicit-confirm --key-kind",
    "renew": "--url --cert --key --key-password --trusted --out --implicit-confirm --key-kind",
    "show": "standard input",
    "demo": "--dir --port --keep",
    "ca": "create issue-ra serve",
    "ca create": "--organisation --key-kind",
    "ca issue-ra": "--subject --key-kind",
    "ca serve": "--config",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_lists_every_option(command: str) -> None:
    """--help of each command names all that it takes."""
    told = succeeded(*command.split(), "--help")
    assert [option for option in OPTIONS[command].split() if option not in told] == []


def test_version_is_the_packages() -> None:
    """--version prints one line."""
    assert succeeded("--version") == f"ra-gateway {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["serve", "--nonsense"], ["enroll"], ["init"], ["show"], ["ca", "nonsense"]],
)
def test_a_wrong_command_line_is_exit_code_2(arguments: list[str]) -> None:
    """What cannot be understood is said, with where the help is."""
    ended = run(*arguments)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "--help" in ended.stderr


# --- init and check-config ------------------------------------------------------------------------


def test_init_makes_what_check_config_accepts(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """init writes a setup that is complete: nothing has to be edited before it serves."""
    vendor_pki.write(tmp_path / "acme")
    directory = tmp_path / "new" / "gateway"
    files = f"acme={tmp_path}/acme/root.pem,{tmp_path}/acme/sub.pem"
    told = succeeded("init", directory, "--vendor", files, "--port", "8443")
    config = directory / "gateway.toml"
    wrote, named, moved, then = told.splitlines()
    assert wrote == f"Wrote {config} and the material it names."
    assert "SERIAL.ran.example.net" in named
    assert moved.startswith(f"Move {directory}/ca/root.key offline now")
    assert then == f"Next: ra-gateway serve --config {config}"
    assert readable_by_others(directory) == []
    before = snapshot(directory)
    good, warning = succeeded("check-config", "--config", config).splitlines()
    assert good == f"{config}: good. 1 endpoint(s), 1 vendor(s), 1 upstream(s), store memory."
    assert warning.startswith(f"warning: {directory}/ca/root.key: is the key of a root")
    # Whoever checks may be root; a ledger of root's would stop the gateway.
    assert snapshot(directory) == before


def test_init_says_how_to_go_on_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name where the shell finds it, else with the way to it: what is printed can be pasted."""
    command = tmp_path / "bin" / "ra-gateway"
    command.parent.mkdir()
    command.touch(0o755)
    monkeypatch.setattr("sys.argv", [str(command)])
    assert succeeded("init", tmp_path / "a").splitlines()[-1].startswith(f"Next: {command} serve")
    monkeypatch.setenv("PATH", str(command.parent))
    assert succeeded("init", tmp_path / "b").splitlines()[-1].startswith("Next: ra-gateway serve")


def test_init_lets_a_base_station_have_its_own_name(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """The one that its vendor certificate gives it; not that of another, nor one of a server."""
    vendor_pki.write(tmp_path / "acme")
    cert, key = vendor_pki.device("ENB-7").write(tmp_path, "device")
    config = tmp_path / "g" / "gateway.toml"
    files = f"acme={tmp_path}/acme/root.pem,{tmp_path}/acme/sub.pem"
    succeeded("init", tmp_path / "g", "--vendor", files, "--domain", "north.example", "--port", "0")
    assert '"*"' not in config.read_text()
    assert "root.key belongs offline" in config.read_text()
    with GatewayProcess(config) as gateway:
        station = ("--url", gateway.url, "--cert", cert, "--key", key)
        own = "CN=ENB-7.north.example,O=Example Operator"
        for number, (subject, sans, why) in enumerate((
            ("CN=ENB-8.north.example,O=Example Operator", (), "notAuthorized"),
            ("CN=www.north.example", (), "notAuthorized"),
            (own, ("dns:ENB-8.north.example",), "notAuthorized"),
            (own, ("dns:ENB-7.north.example",), ""),
            ("CN=ENB-7.north.example", (), "notAuthorized"),
        )):  # fmt: skip
            names = [option for san in sans for option in ("--san", san)]
            out = ("--out", tmp_path / str(number))
            ended = run("enroll", *station, *out, "--subject", subject, *names)
            assert (ended.exit_code, why in ended.stderr) == (1 if why else 0, True)
        # One in the form of TS 33.310 9.4.4 asks for nothing, and gets what its FQDN begins with.
        fqdn = x509.SubjectAlternativeName([x509.DNSName("enb-9.acme-radio.example")])
        subject = "CN=enb-9.acme-radio.example,O=ACME Radio"
        standard = vendor_pki.sub.issue(subject, extensions=[(fqdn, False)])
        cert, key = standard.write(tmp_path, "standard")
        out = ("--out", tmp_path / "nine")
        succeeded("enroll", "--url", gateway.url, "--cert", cert, "--key", key, *out)
    (got, *_) = load_certificates(tmp_path / "nine" / "cert.pem", "nine")
    assert got.subject == "CN=enb-9.north.example,O=Example Operator"
    assert got.subject_alt_name_der is not None
    assert general_names(got.subject_alt_name_der) == ("dns:enb-9.north.example",)


def test_init_without_a_vendor_says_what_is_missing(tmp_path: Path) -> None:
    """A gateway that trusts nobody is possible, and one is told so, now and by check-config."""
    told = succeeded("init", tmp_path / "g")
    assert "No vendor is trusted yet: add one to the configuration" in told
    told = succeeded("check-config", "-c", tmp_path / "g" / "gateway.toml")
    assert "no base station can enrol" in told


def test_init_takes_an_organisation_with_a_comma(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """A name is a name, whatever its characters mean in RFC 4514 and in patterns; base stations have it as O."""
    vendor_pki.write(tmp_path / "acme")
    vendor = ("--vendor", f"acme={tmp_path}/acme/root.pem,{tmp_path}/acme/sub.pem")
    succeeded("init", tmp_path / "g", "--organisation", "Example, Inc. [x]", *vendor, "--port", "0")
    (certificate, *_) = load_certificates(tmp_path / "g" / "ra" / "ra.pem", "ra")
    assert certificate.subject == "CN=Example\\, Inc. [x] RA,O=Example\\, Inc. [x]"
    config = tmp_path / "g" / "gateway.toml"
    succeeded("check-config", "-c", config)
    cert, key = vendor_pki.sub.issue("CN=enb-9,O=ACME Radio").write(tmp_path, "device")
    with GatewayProcess(config) as gateway:
        station = ("--url", gateway.url, "--cert", cert, "--key", key, "--out", tmp_path / "nine")
        subject = "CN=enb-9.ran.example.net,O=Example\\, Inc. [x]"
        succeeded("enroll", *station, "--subject", subject)
    (got, *_) = load_certificates(tmp_path / "nine" / "cert.pem", "nine")
    assert got.subject == subject


@pytest.mark.parametrize("name", ["gateway.toml", "operator/root.pem", "notes.txt"])
def test_init_refuses_a_directory_that_is_in_use(name: str, tmp_path: Path) -> None:
    """Nothing is overwritten and nothing is added."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = snapshot(tmp_path)
    first = name.split("/")[0]
    assert run("init", tmp_path) == Ended(
        2, "", f"{tmp_path}: is not empty: it has {first}. Choose an empty or new directory\n"
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "option, told",
    [
        (("--vendor", "acme=/nowhere/root.pem"), "--vendor acme: no certificate can be read from "),
        (("--vendor", "acme"), "'acme' is not of the form NAME=ROOT.pem[,SUB.pem]"),
        (("--vendor", "a b=root.pem"), "'a b' may only have letters, digits, - and _"),
        (("--domain", "*.example.net"), "'*.example.net' is no DNS domain"),
        (("--key-kind", "dsa"), "'dsa' is not one of p256, p384"),
        (("--port", "65536"), "Invalid value for '--port'"),
    ],
)
def test_init_checks_before_it_writes(option: tuple[str, str], told: str, tmp_path: Path) -> None:
    """A wrong option leaves no directory behind that would be in the way of the next attempt."""
    ended = run("init", tmp_path / "g", *option)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert told in " ".join(ended.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_init_takes_no_root_that_is_none(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """A base station's certificate, a sub-CA and a root of the past are told from a root at once."""
    now = datetime.now(UTC)
    old = make_root("Old", not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))
    files = {
        "device": (vendor_pki.device("SN-1").certificate, "is not a root certificate"),
        "sub": (vendor_pki.sub.certificate, "is not a root certificate"),
        "old": (old.certificate, "Ask the vendor for the root"),
    }
    for name, (certificate, told) in files.items():
        path = write_certificates(tmp_path / f"{name}.pem", certificate)
        ended = run("init", tmp_path / "g", "--vendor", f"acme={path}")
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert told in " ".join(ended.stderr.split())
        assert not (tmp_path / "g").exists()


def test_check_config_says_everything_that_is_wrong(tmp_path: Path) -> None:
    """Every problem is a line that begins with its dotted path; the exit code is 2."""
    succeeded("init", tmp_path / "g")
    config = tmp_path / "g" / "gateway.toml"
    edit(config, "listen_port = 8080", 'listen_port = "http"')
    edit(config, 'kind = "memory"', 'kind = "postgres"')
    edit(config, 'key_path = "ra/ra.key"', 'key_path = "ra/nowhere.key"')
    edit(config, 'upstream = "bundled"', 'upstream = "other"\npasword = "x"')
    assert wrong_settings(config) == [
        "endpoints.ran.pasword",
        "endpoints.ran.upstream",
        "ra.key_path",
        "server.listen_port",
        "store.kind",
    ]


def test_check_config_for_programs(tmp_path: Path) -> None:
    """What is wrong and what to do about it in parts, of a gateway's configuration and of a CA's alone."""
    succeeded("init", tmp_path / "g")
    config = tmp_path / "g" / "gateway.toml"
    found = json.loads(succeeded("check-config", config, "--json"))
    assert (found["name"], found["good"], found["problems"]) == (str(config), True, [])
    assert any("root.key" in warning for warning in found["warnings"])
    assert found["notes"] == [
        "No vendor is trusted, so no base station can enrol: add a table [vendors.NAME]."
    ]
    alone = tmp_path / "g" / "ca.toml"
    alone.write_text('[ca]\ndirectory_path = "ca"\n')
    ended = run("check-config", alone, "--json")
    assert ended.exit_code == 2
    assert [item["path"] for item in json.loads(ended.stdout)["problems"]] == ["ca.ledger_path"]
    alone.write_text(
        '[ca]\ndirectory_path = "ca"\nledger_path = "ca/ledger.sqlite"\ncrl_url = "http://ca.example.net/{issuer}.crl"\n'
    )
    assert json.loads(succeeded("check-config", alone, "--json"))["good"] is True
    ended = run("check-config", config, "--json", "--set", "store.kind=postgres")
    found = json.loads(ended.stdout)
    assert (ended.exit_code, ended.stderr, found["good"]) == (2, "", False)
    (problem,) = found["problems"]
    assert problem["path"] == "store.kind (from --set)"
    assert problem["what"].startswith("is not one of")
    assert problem["todo"].startswith("Use one of: memory, redis")


def test_the_file_is_an_argument_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with --config, but not both; settings stand above it, from the command line and the environment."""
    path = tmp_path / "site" / "gateway.toml"
    succeeded("init", path.parent)
    assert succeeded("check-config", path).startswith(f"{path}: good.")
    ended = run("check-config", path, "--config", path)
    assert (ended.exit_code, "named twice" in ended.stderr) == (2, True)
    ended = run("check-config", path, "--set", "server.listen_port=x")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("server.listen_port (from --set): must be a whole number")
    monkeypatch.setenv("RA_GATEWAY__LOG__LEVEL", "loud")
    ended = run("check-config", path)
    assert ended.stderr.startswith("log.level (from RA_GATEWAY__LOG__LEVEL): is not one of ")


@pytest.mark.parametrize("command", [("serve",), ("ca", "serve")])
def test_the_port_is_an_option(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes serve by one file."""
    path = tmp_path / "site" / "gateway.toml"
    succeeded("init", path.parent, "--port", "1")
    free = free_port()
    listened: list[int] = []

    async def start_and_stop(service: Service, _started: object) -> None:
        listened.append((await service.start())[1])
        await service.stop()

    monkeypatch.setattr("ra_gateway.app.running.run_until_signalled", start_and_stop)
    settings = ("--set", f"ca.status.listen_port={free_port()}", "--set", "log.level=error")
    ended = run(*command, "--port", str(free), "--config", path, *settings)
    assert (ended.exit_code, ended.stderr, listened) == (0, "", [free])


def test_check_config_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The file is named, and what writes one."""
    missing = tmp_path / "nowhere.toml"
    assert run("check-config", "-c", missing) == Ended(
        2,
        "",
        f"{missing}: cannot be read: No such file or directory. Give the path of a file; "
        "`ra-gateway init` writes one.\n",
    )


def test_check_config_reads_the_material(tmp_path: Path) -> None:
    """A key of somebody else, or a certificate devices could not verify, is found before serving."""
    succeeded("init", tmp_path / "g")
    succeeded("init", tmp_path / "other")
    config, ra = tmp_path / "g" / "gateway.toml", tmp_path / "g" / "ra"
    key = (ra / "ra.key").read_bytes()
    (ra / "ra.key").write_bytes((tmp_path / "other" / "ra" / "ra.key").read_bytes())
    assert run("check-config", "-c", config) == Ended(
        2,
        "",
        "ra.key_path: the private key does not belong to the certificate of "
        "CN=Example Operator RA,O=Example Operator. Give the key that was certified\n",
    )
    (ra / "ra.key").write_bytes(key)
    right = (ra / "ra.pem").read_text()
    own, mark, above = right.partition("-----END CERTIFICATE-----\n")
    (ra / "ra.pem").write_text(above + own + mark)
    assert run("check-config", "-c", config).stderr == (
        "ra.key_path: the order is wrong: the certificate of this key, CN=Example Operator RA,O=Example Operator, "
        "stands behind that of CN=Example Operator Issuing CA,O=Example Operator. Put the key's own certificate "
        "first in its file, and those of the CAs above it behind it\n"
    )
    (ra / "ra.pem").write_text(right)
    root = tmp_path / "g" / "operator" / "root.pem"
    root.write_bytes((tmp_path / "other" / "operator" / "root.pem").read_bytes())
    ended = run("check-config", "-c", config)
    assert ended.exit_code == 2
    assert ended.stderr.startswith("ra.certificate_path: devices could not verify the RA cert")


@pytest.mark.parametrize("password", [PASSWORD, "something else", None])
def test_the_ra_key_may_be_encrypted(password: str | None, tmp_path: Path) -> None:
    """The password comes from a file; a wrong or missing one is an error that does not tell it."""
    succeeded("init", tmp_path / "g")
    config, ra = tmp_path / "g" / "gateway.toml", tmp_path / "g" / "ra"
    key = load_pem_private_key((ra / "ra.key").read_bytes(), None)
    (ra / "ra.key").unlink()
    write_private_key(ra / "ra.key", key, PASSWORD.encode())
    if password is not None:
        (ra / "password").touch(0o600)
        (ra / "password").touch(mode=0o600)
        (ra / "password").write_text(f"{password}\n")
        edit(
            config,
            'key_path = "ra/ra.key"',
            'key_path = "ra/ra.key"\nkey_password_path = "ra/password"',
        )
    ended = run("check-config", "-c", config)
    if password == PASSWORD:
        assert (ended.exit_code, ended.stderr) == (0, "")
    else:
        assert ended.exit_code == 2
        assert ended.stderr.startswith("ra.key_path: no private key can be read from ")
        assert "wrong password" in ended.stderr
        assert "something else" not in ended.stderr


# --- the CA ---------------------------------------------------------------------------------------


def test_ca_create_and_issue_ra_fit_together(tmp_path: Path) -> None:
    """A CA made by hand issues a certificate for an RA with the subject that was asked for."""
    told = succeeded("ca", "create", tmp_path / "ca", "--key-kind", "p384")
    assert f"move {tmp_path}/ca/root.key away" in told
    told = succeeded("ca", "issue-ra", tmp_path / "ca", tmp_path / "ra", "--subject", "CN=ra1,O=Op")
    assert "ra-gateway ca ra add NAME --role ROLE" in told
    assert "[ra] of the gateway" in told
    own, issuing = load_certificates(tmp_path / "ra" / "ra.pem", "ra")
    assert own.subject == "CN=ra1,O=Op"
    own.verify_issued_by(issuing)
    assert readable_by_others(tmp_path) == []


def test_ca_commands_overwrite_nothing(tmp_path: Path) -> None:
    """A second `create` or `issue-ra` into the same place names every file in the way."""
    for command in (("create", tmp_path), ("issue-ra", tmp_path, tmp_path)):
        succeeded("ca", *command)
        before = snapshot(tmp_path)
        ended = run("ca", *command)
        assert (ended.exit_code, ended.stdout) == (2, "")
        stems = ("root", "issuing", "cmp", "ocsp") if command[0] == "create" else ("ra",)
        assert [line.split(": ")[0] for line in ended.stderr.splitlines()] == [
            f"{tmp_path}/{stem}.{suffix}" for stem in stems for suffix in ("pem", "key")
        ]
        assert snapshot(tmp_path) == before


def test_issue_ra_checks_before_it_writes(tmp_path: Path) -> None:
    """A subject that is no name, or a directory without a CA, leaves nothing behind."""
    succeeded("ca", "create", tmp_path / "ca")
    ended = run("ca", "issue-ra", tmp_path / "ca", tmp_path / "ra", "--subject", "ra1")
    assert ended.exit_code == 2
    assert ended.stderr.startswith("--subject: 'ra1' is no name. Write it like CN=")
    ended = run("ca", "issue-ra", tmp_path / "nowhere", tmp_path / "ra")
    assert ended.exit_code == 2
    assert "nowhere/root.pem: No such file or directory" in ended.stderr
    assert not (tmp_path / "ra").exists()


# --- enroll and renew -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """A running gateway, and a base station of a vendor it trusts."""

    gateway: GatewayProcess
    directory: Path
    root: Path

    @property
    def station(self) -> tuple[str | Path, ...]:
        """Options that every enrolment of the base station has."""
        vendor = self.directory / "acme"
        return (
            *("--url", self.gateway.url, "--cert", vendor / "device.pem"),
            *("--key", vendor / "device.key", "--chain", vendor / "sub.pem"),
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, vendor_pki: VendorPKI) -> Iterator[Site]:
    """A gateway process with the bundled CA and a memory store."""
    directory = tmp_path_factory.mktemp("site")
    config = make_setup(directory, vendors={"acme": vendor_pki}, implicit_confirm="relay")
    vendor_pki.device("SN-000001").write(directory / "acme", "device")
    with GatewayProcess(config) as gateway:
        yield Site(gateway, directory, directory / "operator" / "root.pem")


def read(path: Path) -> Certificate:
    """Return the first certificate of a file."""
    return load_certificates(path, "test")[0]


@pytest.mark.parametrize("trusted", [True, False])
def test_enroll_then_renew(trusted: bool, site: Site, tmp_path: Path) -> None:
    """A base station gets a certificate, with or without the operator's root, and renews it with itself."""
    first, second = tmp_path / "first", tmp_path / "second"
    told = succeeded(
        *("enroll", *site.station, "--out", first, "--subject", "CN=enb1,O=Op"),
        *("--san", "dns:enb1.example.net", *(("--trusted", site.root) if trusted else ())),
    )
    assert told.splitlines() == [
        "ir, ip, certConf, pkiconf: CN=enb1,O=Op",
        f"Wrote {first}/cert.pem, key.pem and root.pem.",
    ]
    assert read(first / "root.pem").der == read(site.root).der
    told = succeeded(
        *("renew", "--url", site.gateway.url, "--cert", first / "cert.pem"),
        *("--key", first / "key.pem", "--trusted", first / "root.pem", "--out", second),
        *("--key-kind", "p384"),
    )
    assert told.splitlines() == [
        "kur, kup, certConf, pkiconf: CN=enb1,O=Op",
        f"Wrote {second}/cert.pem, key.pem and root.pem.",
    ]
    assert read(first / "cert.pem").der != read(second / "cert.pem").der
    assert readable_by_others(tmp_path) == []


def test_a_base_station_has_a_history(site: Site, tmp_path: Path) -> None:
    """Found by what its vendor calls it, as the gateway has told the CA; a renewal keeps that."""
    first, second = tmp_path / "first", tmp_path / "second"
    succeeded("enroll", *site.station, "--out", first, "--subject", "CN=enb-7,O=Op")
    succeeded(
        *("renew", "--url", site.gateway.url, "--cert", first / "cert.pem"),
        *("--key", first / "key.pem", "--trusted", first / "root.pem", "--out", second),
    )
    config = ("--config", site.directory / "gateway.toml")
    old, new = (f"{read(path / 'cert.pem').serial_number:x}" for path in (first, second))
    name = "CN=enb-7,O=Op"
    listed = json.loads(succeeded("ca", "list", "--entity", name, "--json", *config))
    assert {(row["serial"], row["vendor"], row["identity"]) for row in listed} == {
        (old, "acme", "SN-000001"),
        (new, "acme", "SN-000001"),
    }
    (entity,) = json.loads(succeeded("ca", "entity", "list", "--pattern", name, "--json", *config))
    assert (entity["vendor"], entity["identity"]) == ("acme", "SN-000001")
    facts = succeeded("ca", "entity", "show", name, *config)
    assert re.search(r"Vendor: +acme\n", facts)
    assert re.search(r"Identity: +SN-000001\n", facts)
    for wanted in (name, name.upper(), "enb-7", old, f"0x{new.upper()}"):
        shown = json.loads(succeeded("ca", "history", wanted, "--json", *config))
        assert shown["devices"] == [{"vendor": "acme", "identity": "SN-000001"}]
        assert [(item["name"], item["status"]) for item in shown["entities"]] == [(name, "active")]
        assert [(event["action"], event["subject"]) for event in shown["events"]] == [
            ("entity.add", name),
            ("issue", old),
            ("confirm", old),
            ("issue", new),
            ("confirm", new),
        ]
    assert shown["events"][3]["detail"]["renews"] == old
    told = succeeded("ca", "history", name, "--limit", "1", *config).splitlines()
    assert told[:2] == [f"{name}: active", "Device: acme: SN-000001"]
    assert len(told) == 4
    # A device may have several end entities; a part of a name is not to mean several.
    succeeded("enroll", *site.station, "--out", tmp_path / "third", "--subject", "CN=enb-8")
    shown = json.loads(succeeded("ca", "history", "sn-000001", "--json", *config))
    assert {name, "CN=enb-8"} <= {item["name"] for item in shown["entities"]}
    assert ("issue", "CN=enb-8") in {(item["action"], item["entity"]) for item in shown["events"]}
    ended = run("ca", "history", "enb-", *config)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "fits several end entities: CN=enb-7,O=Op; CN=enb-8. Give the name of" in ended.stderr
    assert run("ca", "history", "nobody", *config).exit_code == 2


def test_enroll_without_certconf(site: Site, tmp_path: Path) -> None:
    """--implicit-confirm ends the dialogue with ip, where the endpoint grants it."""
    told = succeeded(
        *("enroll", *site.station, "--out", tmp_path / "new"),
        *("--subject", "CN=enb2", "--implicit-confirm", "--trusted", site.root),
    )
    assert told.startswith("ir, ip: CN=enb2\n")


def test_a_base_station_becomes_no_ra(site: Site, tmp_path: Path) -> None:
    """The CA issued its certificate to an end entity; nothing of the RA it was to be is left."""
    acme, new = site.directory / "acme", tmp_path / "new"
    succeeded(
        *("enroll", "--url", site.gateway.url, "--cert", acme / "device.pem", "--out", new),
        *("--key", acme / "device.key", "--chain", acme / "sub.pem", "--subject", "CN=enb3"),
    )
    config = ("--config", site.directory / "gateway.toml")
    certificate = ("--certificate", new / "cert.pem")
    ended = run("ca", "ra", "add", "rogue", "--role", "ra", *certificate, *config)
    assert ended.exit_code == 2
    assert "is an end entity's certificate of this CA" in ended.stderr
    assert "rogue" not in succeeded("ca", "ra", "list", *config)


def test_enroll_with_an_encrypted_key(site: Site, vendor_pki: VendorPKI, tmp_path: Path) -> None:
    """The password comes from a file; without it the error says how to give it."""
    device = vendor_pki.device("SN-000002")
    cert = write_certificates(tmp_path / "device.pem", device.certificate)
    write_private_key(tmp_path / "device.key", device.private_key, PASSWORD.encode())
    (tmp_path / "password").touch(mode=0o600)
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "wrong").touch(mode=0o600)
    (tmp_path / "wrong").write_text("wrong")
    arguments = (
        *("enroll", "--url", site.gateway.url, "--cert", cert, "--key", tmp_path / "device.key"),
        *("--chain", site.directory / "acme" / "sub.pem", "--subject", "CN=enb3"),
        *("--out", tmp_path / "new"),
    )
    for more in ((), ("--key-password", tmp_path / "wrong")):
        ended = run(*arguments, *more)
        assert (ended.exit_code, ended.stdout) == (2, "")
        assert ended.stderr.startswith(f"--key: no private key can be read from {tmp_path}/device")
        assert "with --key-password the file of its password" in ended.stderr
    assert succeeded(*arguments, "--key-password", tmp_path / "password").startswith("ir, ip, ")


def test_enroll_loses_no_certificate_for_want_of_room(site: Site, tmp_path: Path) -> None:
    """Files in the way of the results are found before the gateway is asked, and stay as they are."""
    (tmp_path / "key.pem").write_text("mine")
    before = len(site.gateway.events)
    assert run("enroll", *site.station, "--out", tmp_path, "--subject", "CN=enb4") == Ended(
        2, "", f"{tmp_path}/key.pem: exists already. Choose another directory with --out\n"
    )
    assert snapshot(tmp_path) == {"key.pem": b"mine"}
    assert len(site.gateway.events) == before


def test_a_foreign_vendor_is_told_so(
    site: Site, foreign_vendor_pki: VendorPKI, tmp_path: Path
) -> None:
    """The refusal is exit code 1; it says what to do, and where in the gateway's log the reason is."""
    cert, key = foreign_vendor_pki.device().write(tmp_path, "device")
    foreign_vendor_pki.write(tmp_path)
    ended = run(
        *("enroll", "--url", site.gateway.url, "--cert", cert, "--key", key),
        *("--chain", tmp_path / "sub.pem", "--out", tmp_path / "new", "--subject", "CN=enb5"),
        *("--trusted", site.root),
    )
    assert (ended.exit_code, ended.stdout) == (1, "")
    refusal, where = ended.stderr.splitlines()
    assert refusal == (
        "refused with error: rejection signerNotTrusted The certificate that protects the message "
        "is not trusted here. The root of the device's certificate must be an anchor of a trust "
        "domain there, the certificate within its validity, and the chain in extraCerts."
    )
    assert where == (
        "The reason is in the log of the gateway, in the line with transaction_id "
        f"{site.gateway.events[-1]['transaction_id']}."
    )
    assert not (tmp_path / "new" / "key.pem").exists()


def test_a_subject_that_was_forgotten_is_guessed(site: Site, tmp_path: Path) -> None:
    """A gateway that keeps subjects refuses a request without one; the hint names the option."""
    ended = run("enroll", *site.station, "--out", tmp_path, "--trusted", site.root)
    assert ended.exit_code == 1
    assert "badCertTemplate" in ended.stderr
    assert "--subject CN=" in ended.stderr


def test_an_answer_of_another_operator_is_not_trusted(site: Site, tmp_path: Path) -> None:
    """With the wrong --trusted nothing is written, and the text says which root was expected."""
    wrong = site.directory / "acme" / "root.pem"
    ended = run(
        *("enroll", *site.station, "--out", tmp_path, "--subject", "CN=enb6"),
        *("--trusted", wrong),
    )
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("the answer is not trusted: no path from CN=Example Operator RA")
    assert "the operator root that the device was given" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_vendor_certificate_renews_nothing(site: Site, tmp_path: Path) -> None:
    """kur with the vendor's certificate is refused."""
    vendor = site.directory / "acme"
    ended = run(
        *("renew", "--url", site.gateway.url, "--cert", vendor / "device.pem"),
        *("--key", vendor / "device.key", "--trusted", site.root, "--out", tmp_path / "new"),
    )
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "signerNotTrusted" in ended.stderr


def test_no_gateway_there(site: Site, tmp_path: Path) -> None:
    """A refused connection is told with the URL and what to look at."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/.well-known/cmp"
        ended = run(
            *("enroll", *site.station, "--url", url, "--out", tmp_path, "--subject", "CN=enb7")
        )
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"no connection to {url}: ")
    assert "Check host and port, and that the gateway is running" in ended.stderr


@pytest.mark.parametrize("path", ["/cmp", "", "/.well-known/cmp/p/unknown"])
def test_a_wrong_path(path: str, site: Site, tmp_path: Path) -> None:
    """404 is told as such, with the usual path."""
    url = f"http://{site.gateway.server}{path}"
    assert run(
        *("enroll", *site.station, "--url", url, "--out", tmp_path, "--subject", "CN=enb8")
    ) == Ended(
        1,
        "",
        f"HTTP 404 Not Found with text/plain from {url}. Check the path of the URL; the usual one "
        "is /.well-known/cmp.\n",
    )


def test_something_that_is_no_url(site: Site, tmp_path: Path) -> None:
    """A forgotten scheme is told with an example."""
    ended = run(
        *("enroll", *site.station, "--url", "gateway", "--out", tmp_path, "--subject", "CN=e")
    )
    assert ended.exit_code == 2
    assert "'gateway' is no URL. Write it like http://gateway/.well-known/cmp\n" in ended.stderr


@pytest.mark.parametrize(
    "options, told",
    [
        (("--subject", "enb1"), "--subject: 'enb1' is no name. Write it like CN="),
        (("--san", "enb1"), "--san: 'enb1' is not of the form dns:, ip:, uri:, email: or dn:"),
        (("--key", "sub.key"), "--key: the private key does not belong to the certificate of "),
        (("--key", "nowhere.key"), "--key: no private key can be read from "),
        (("--key", "device.pem"), "--key: no private key can be read from "),
        (("--cert", "device.key"), "--cert: no certificate can be read from "),
        (("--chain", "nowhere.pem"), "--chain: no certificate can be read from "),
        (("--trusted", "nowhere.pem"), "--trusted: no certificate can be read from "),
    ],
)
def test_what_is_wrong_with_an_option_is_said_under_its_name(
    options: tuple[str, str], told: str, site: Site, tmp_path: Path
) -> None:
    """Exit code 2 before anything is sent; the line begins with the option."""
    option, value = options
    if "." in value:
        value = str(site.directory / "acme" / value)
    before = len(site.gateway.events)
    ended = run("enroll", *site.station, "--out", tmp_path / "new", option, value)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(told)
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert len(site.gateway.events) == before


# --- show -----------------------------------------------------------------------------------------


def test_show_takes_every_form_of_every_message(
    vendor_pki: VendorPKI, operator_pki: OperatorPKI, tmp_path: Path
) -> None:
    """DER, base64, hex and standard input give the same text, which names the body type."""
    file = tmp_path / "message"
    for name, der in asyncio.run(dialogue.messages(vendor_pki, operator_pki)).items():
        file.write_bytes(der)
        told = succeeded("show", file)
        assert name.split()[0] in told.splitlines()[0], name
        for form in (base64.encodebytes(der), der.hex().encode()):
            assert succeeded("show", "-", stdin=form) == told, name
        assert succeeded("show", "-", stdin=der) == told


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "The file is empty."),
        (b"hello, world\n", "The file is text, but neither PEM nor base64 nor hex nor a dump"),
        (b"\x00\xff" * 40, "These 80 octets are not one complete PKIMessage in DER."),
        (b"\x30\x82\xff\xff", "These 4 octets are not one complete PKIMessage in DER."),
    ],
)
def test_show_refuses_what_is_no_message(content: bytes, told: str) -> None:
    """Garbage is exit code 1 and one sentence about what was expected."""
    ended = run("show", "-", stdin=content)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith(told)


def test_show_shows_no_private_key(tmp_path: Path) -> None:
    """A key that was given by mistake is not shown."""
    write_private_key(tmp_path / "key.pem", make_key("p256"))
    ended = run("show", tmp_path / "key.pem")
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr.startswith("The file has a private key, which is not shown.")


def test_show_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The file is named."""
    assert run("show", tmp_path / "nowhere") == Ended(
        1, "", f"{tmp_path}/nowhere: No such file or directory\n"
    )
