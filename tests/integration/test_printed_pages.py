"""What is printed on the how-to pages that have no tests of their own, run as it stands there."""

from __future__ import annotations

import shutil
import stat
import sys
from pathlib import Path
from typing import Final

from tests.support.openssl import load_certificate
from tests.support.pki import OperatorPKI, VendorPKI
from tests.support.ports import free_port
from tests.support.printed import ROOT, Printed, Prompt, blocks, to_run
from tests.support.setups import make_setup
from tests.support.softhsm import MODULES


def in_order(prompt: Prompt, commands: list[Printed]) -> str:
    """Run commands that have to succeed; returns what the last one wrote."""
    assert commands
    return [prompt.succeeds(command.text) for command in commands][-1]


def test_the_doctor(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """It finds no fault at a site as `init` makes it, and explains a text of EJBCA."""
    make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    prompt = Prompt(tmp_path, environment={"RA_GATEWAY_CONFIG": "site/gateway.toml"})
    assert "allowautomatickeyupdate" in in_order(prompt, to_run("docs/doctor.md"))


def test_secrets_are_for_their_owner(tmp_path: Path) -> None:
    """The file for the webhook is made so, and the one for Trustpoint becomes so."""
    prompt = Prompt(tmp_path)
    (tmp_path / "trustpoint.secret").touch(0o644)
    in_order(prompt, to_run("docs/ca-trustpoint.md"))
    in_order(prompt, to_run("docs/registering.md", "A service that is asked"))
    for name in ("trustpoint.secret", "webhook.secret"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert len((tmp_path / "webhook.secret").read_text()) == 51


def test_the_mock_server(tmp_path: Path, operator_pki: OperatorPKI) -> None:
    """It starts with what is printed, and answers the one device with the one certificate."""
    operator_pki.write(tmp_path)
    operator_pki.cmp_signer.write(tmp_path, "cmp")
    operator_pki.device().write(tmp_path, "device")
    prompt = Prompt(tmp_path, {"8090": str(free_port())})
    (command,) = to_run("docs/ca-openssl-mock.md")
    asks = (
        "openssl cmp -cmd ir -server 127.0.0.1:8090 -path /pkix/ -cert device.pem -key device.key "
        "-extracerts issuing.pem -trusted root.pem -subject /CN=enb1.example.net -newkey device.key -certout out.pem"
    )
    prompt.succeeds(
        f"({command.text} -max_msgs 2 > log 2>&1 & until grep -q ACCEPT log; do sleep 0.05; done; {asks})"
    )
    assert load_certificate(tmp_path / "out.pem") == load_certificate(tmp_path / "device.pem")


def test_prometheus(tmp_path: Path) -> None:
    """promtool takes what is in deploy/."""
    prompt = Prompt(tmp_path, {"deploy/": f"{ROOT}/deploy/"})
    assert "SUCCESS" in in_order(prompt, to_run("deploy/README.md", "Prometheus and Grafana"))


def test_a_token_of_softhsm(tmp_path: Path) -> None:
    """It is made as printed, and the key file that names its key is one that the gateway signs with."""
    module = next(path for path in MODULES if path.exists())
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    environment = {"SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf")}
    prompt = Prompt(tmp_path, {str(MODULES[0]): str(module)}, environment)
    in_order(prompt, to_run("docs/hsm.md"))
    assert stat.S_IMODE((tmp_path / "ra.key").stat().st_mode) == 0o600
    load = "from pathlib import Path; from ra_gateway.keys import load_private_key as load"
    python = f"PYTHONPATH={ROOT} {sys.executable}"
    prompt.succeeds(f"""{python} -c '{load}; load(Path("ra.key"), None, "ra.key_path")'""")


AS_ROOT: Final = {
    "useradd": "exit 0",
    "chown": "exit 0",
    "systemctl": "exit 0",
    "runuser": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"',
    "install": 'exec /usr/bin/install $(echo "$@" | sed "s/-[og] [a-z_]*//g")',
}
"""What stands for programs that change users, owners and services: all else runs, below a directory of the test."""
UNITS: Final = "deploy/README.md"


def test_the_units(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """Files are copied to where the units look for them, and both configurations are good."""
    for place in ("etc/systemd/system", "usr/local/bin", "opt"):
        (tmp_path / place).mkdir(parents=True)
    roots = ("/etc/", "/opt/", "/var/", "/usr/local/")
    here = {f"{before}{root}": f"{before}{tmp_path}{root}" for root in roots for before in ' "'}
    prompt = Prompt(tmp_path, here, programs=AS_ROOT)
    for command in to_run(UNITS):
        if command.section == "Prometheus and Grafana":
            continue
        if "runuser -u ra_gateway " in command.text:
            put_what_the_example_names(tmp_path / "etc/ra_gateway", vendor_pki)
        elif "runuser -u ra_gateway_ca " in command.text:
            tables = ("\n".join(lines) for _, lines in blocks(ROOT / UNITS) if "[ca" in lines[0])
            (tmp_path / "etc/ra_gateway/ca.toml").write_text(prompt.text("\n\n".join(tables)))
        prompt.succeeds(command.text)
    for name in ("ra-gateway", "ra-gateway@", "ra-gateway-ca"):
        assert (tmp_path / f"etc/systemd/system/{name}.service").is_file()
    assert stat.S_IMODE((tmp_path / "var/lib/ra_gateway_ca").stat().st_mode) == 0o700


def put_what_the_example_names(etc: Path, vendor: VendorPKI) -> None:
    """Put certificates, keys and the URL of Redis beside the example for EJBCA."""
    made = make_setup(etc.parent / "made", vendors={"acme": vendor}).parent
    for name in ("ra", "operator", "acme"):
        shutil.copytree(made / name, etc / name)
    shutil.copy(made / "seal.key", etc)
    (etc / "redis.url").touch(0o600)
    (etc / "redis.url").write_text("redis://127.0.0.1:6379/0")
