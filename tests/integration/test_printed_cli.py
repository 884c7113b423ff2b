"""Every example in `--help` and every command in docs/cli.md and docs/log-fields.md, run at a site that they make."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.support.openssl import load_certificate
from tests.support.page_site import run_openssl
from tests.support.pki import OperatorPKI, VendorPKI, write_certificates
from tests.support.ports import free_port
from tests.support.printed import HELP, Prompt, to_run
from tests.support.setups import edit

PAGES: Final = (HELP, "docs/cli.md", "docs/log-fields.md")
LAB: Final = r"ra-gateway (demo|enroll|renew|replay|show|simulate) "
APPROVALS: Final = r"ra-gateway approvals "
SERVE: Final = r"ra-gateway (ca )?serve"
CA: Final = """
[ca]
directory_path = "{directory}"
{ledger}
crl_url = "http://pki.example.net/crl/{{issuer}}.crl"

[ca.server]
listen_port = 0

[management]
listen_port = {port}
"""


def printed(pattern: str, *, but: str = "^$") -> list[str]:
    """Return commands of help and pages that fit one pattern and not the other; each once, help first."""
    lines = dict.fromkeys(line.text for page in PAGES for line in to_run(page))
    return [line for line in lines if re.search(pattern, line) and not re.search(but, line)]


@pytest.fixture
def site(tmp_path: Path, vendor_pki: VendorPKI, postgres_url: str) -> Prompt:
    """What `init` makes as it is printed, on ports that are free, and the files that the examples name."""
    prompt = Prompt(
        tmp_path,
        {"/media/offline": str(tmp_path / "offline"), "8081": str(free_port())},
        {"RA_GATEWAY_CONFIG": "site/gateway.toml"},
        {"journalctl": 'cat "$(dirname "$0")/log"', "systemctl": "true"},
    )
    write_certificates(tmp_path / "acme-root.pem", vendor_pki.root.certificate)
    write_certificates(tmp_path / "acme-sub.pem", vendor_pki.sub.certificate)
    for line in printed("ra-gateway init"):
        prompt.succeeds(line)
    config = tmp_path / "site/gateway.toml"
    for port in ("8080", "8082"):
        edit(config, f"listen_port = {port}", f"listen_port = {free_port()}")
    more = f'\n[management]\nlisten_port = {free_port()}\n\n[inventory]\ncsv_path = "devices.csv"\n'
    config.write_text(config.read_text() + more)
    rows = "domain,identity,subject,san,enabled\nacme,SN-000001,,,true\n"
    subject = "CN=enb2.ran.example.net,O=Example Operator"
    files = {
        "site/devices.csv": rows,
        "site.csv": f"{rows}acme,SN-000002,,,true\n",
        "stations.csv": f'name,subject,names\nenb2,"{subject}",dns:enb2.ran.example.net\n',
        "ca.toml": CA.format(directory="ca", ledger='ledger_path = "ca.sqlite"', port=free_port()),
        "ca-new.toml": CA.format(directory="ca", ledger='ledger_url_path = "ledger.url"', port=0),
        "new-ca.toml": CA.format(directory="site/ca", ledger='ledger_path = "new.sqlite"', port=0),
        "ledger.url": postgres_url,
        "password": "correct horse",
        "transport.password": "correct horse",
    }
    for name, text in files.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(text)
    return prompt


def enrol(prompt: Prompt, name: str, vendor: VendorPKI, serial: str) -> str:
    """Have a base station enrolled; returns the serial number of its certificate, NAME.pem."""
    directory = prompt.directory
    config = (directory / "site/gateway.toml").read_text()
    port = re.findall(r"(?m)^listen_port = (\d+)", config)[0]
    vendor.device(serial).write(directory, serial)
    prompt.succeeds(
        f"ra-gateway enroll --url http://127.0.0.1:{port}/.well-known/cmp --out {name} "
        f"--cert {serial}.pem --key {serial}.key --chain acme-sub.pem "
        f'--subject "CN={serial}.ran.example.net,O=Example Operator"'
    )
    shutil.copyfile(directory / name / "cert.pem", directory / f"{name}.pem")
    return f"{load_certificate(directory / f'{name}.pem').serial_number:x}"


def request(name: str, subject: str) -> Callable[[Prompt], dict[str, str]]:
    """Return what makes the PKCS #10 that somebody brings."""

    def step(prompt: Prompt) -> dict[str, str]:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        out = ["-keyout", f"{name}.key", "-out", f"{name}.csr"]
        done = run_openssl(
            prompt.directory, ["openssl", "req", "-new", *key, "-subj", subject, *out]
        )
        assert done.returncode == 0, done.stderr
        return {}

    return step


def fingerprint(of: str, text: str) -> Callable[[Prompt], dict[str, str]]:
    """Return what looks up the certificate of an RA that stands on the page as `text`."""

    def step(prompt: Prompt) -> dict[str, str]:
        ra = json.loads(prompt.succeeds(f"ra-gateway ca ra show {of} --json"))
        return {text: ra["certificates"][0]["fingerprint"]}

    return step


def commands_before(*commands: str) -> Callable[[Prompt], dict[str, str]]:
    """Return what runs commands."""

    def step(prompt: Prompt) -> dict[str, str]:
        for command in commands:
            prompt.succeeds(command)
        return {}

    return step


def first_root_crl(prompt: Prompt) -> dict[str, str]:
    """Make it, after a cross-certification, whose serial number is the one to revoke."""
    prompt.succeeds("ra-gateway ca root-crl ca --first")
    (cross,) = (prompt.directory / "ca/cross").iterdir()
    return {"5b1f03c9": cross.stem}


BEFORE: Final[dict[str, Callable[[Prompt], dict[str, str]]]] = {
    "ra-gateway ca import": commands_before("cd elsewhere"),
    "ra-gateway ca roll-issuing": commands_before("cp -r ca offline"),
    "ra-gateway ca cross-sign": request("op2", "/O=Op Two/CN=Op Two CA"),
    "ra-gateway ca root-crl": first_root_crl,
    "ra-gateway ca sign": request("seg", "/O=Example Operator/CN=seg.ran.example.net"),
    "ra-gateway ca ra remove-certificate gateway": fingerprint("gateway", "5b1f03c9a7e2"),
    "ra-gateway ca ra add ra1": commands_before(
        "ra-gateway ca role add ra --privilege issue -c ca.toml"
    ),
    # Of the CA that this site has; that of ca.toml is another operator's, and its RA is refused here.
    "ra-gateway ca ra install ra1.p12": commands_before(
        "rm ra1.p12",
        "ra-gateway ca ra issue gateway --out ra1.p12 --password-file password",
    ),
    "ra-gateway ca ra remove-certificate ra1": fingerprint("ra1 -c ca.toml", "3f9a17c2"),
    "ra-gateway ca backup ledger.dump --config": commands_before("rm ledger.dump"),
}
"""What an operator has done before a command that begins so; what it returns stands for texts of that command."""

LATE: Final = ("--device", "ca ra delete", "role delete")
"""After these the site is of no more use."""


def test_at_a_site(site: Prompt, vendor_pki: VendorPKI, operator_pki: OperatorPKI) -> None:
    """Every command succeeds, in the order of help, then of the page."""
    elsewhere = site.directory / "elsewhere"
    elsewhere.mkdir()
    operator_pki.write(elsewhere)
    write_certificates(site.directory / "ra.pem", operator_pki.ra.certificate)
    failed = []
    lines = printed("", but=f"ra-gateway init|{SERVE}|{LAB}|{APPROVALS}")
    with site.serving("ra-gateway serve --config site/gateway.toml") as log:
        site.texts["5b1f03c9"] = enrol(site, "enb-1", vendor_pki, "SN-000001")
        second = enrol(site, "enb-2", vendor_pki, "SN-000002")
        site.texts["A005"] = "SN-000001"
        shutil.copyfile(log, site.directory / ".bin/log")
        usual = dict(site.texts)
        for line in sorted(lines, key=lambda line: [end in line for end in LATE[::-1]]):
            site.here = site.directory
            for beginning, step in BEFORE.items():
                if line.startswith(beginning):
                    site.texts |= step(site)
            if "--device" in line:
                site.texts["5b1f03c9"] = second
            with ExitStack() as beside:
                if "ca reload" in line:
                    beside.enter_context(site.serving("ra-gateway ca serve --config ca.toml"))
                ended = site.run(line)
            site.texts = dict(usual)
            if ended.exit_code:
                failed.append(f"{line}\n{ended.output}")
    assert not failed, "\n".join(failed)


def test_what_serves(site: Prompt, redis_url: str) -> None:
    """Each says where it listens, and ends by itself when it is told to."""
    commands = printed(SERVE)
    assert len(commands) > 4
    store = f'kind = "redis"\nredis_url = "{redis_url}"'
    edit(site.directory / "site/gateway.toml", 'kind = "memory"', store)
    site.succeeds("ra-gateway ca create ca")
    for line in commands:
        with site.serving(line):
            pass
