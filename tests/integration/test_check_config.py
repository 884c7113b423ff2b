"""What `check-config` refuses because a start would trip over it: places of listeners, and a ledger that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commandline import run, succeeded
from tests.support.pki import VendorPKI
from tests.support.ports import free_port
from tests.support.setups import edit, make_setup


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path, vendors={"acme": vendor_pki})


def refused(config: Path) -> list[str]:
    """The lines by which it is refused."""
    ended = run("check-config", config)
    assert ended.exit_code == 2, ended.stdout
    return ended.stderr.splitlines()


# --- where listeners are ----------------------------------------------------------------------------------------


def at(config: Path, port: int, *, management: str = "", status: str = "") -> None:
    """Say where the listeners of a gateway are."""
    before = '[server]\nlisten_host = "127.0.0.1"\nlisten_port = '
    edit(config, f"{before}0", f"{before}{port}")
    tables = {"management": management, "ca.status": status}
    added = "".join(f"\n[{name}]\n{lines}\n" for name, lines in tables.items() if lines)
    config.write_text(config.read_text() + added)


@pytest.mark.parametrize(
    "management, status, said",
    [
        ("listen_port = {port}", "", "management.listen_port: is {port}, where server listens"),
        ("", "listen_port = {port}", "ca.status.listen_port: is {port}, where server listens"),
        ("listen_port = 7", "listen_port = 7", "ca.status.listen_port: is 7, where management listens"),
        ("", "listen_port = {above}", "ca.status.listen_port: is {above}, where management listens"),
        ('listen_host = "0.0.0.0"\nlisten_port = {port}', "", "management.listen_port: is {port}"),
    ],
)  # fmt: skip
def test_two_listeners_in_one_place(config: Path, management: str, status: str, said: str) -> None:
    """A start would fail, and say that another process is there."""
    port = free_port()
    values = {"port": port, "above": port + 1000 if port + 1000 <= 65535 else port - 1000}
    at(config, port, management=management.format(**values), status=status.format(**values))
    (line,) = refused(config)
    assert line.startswith(said.format(**values))
    assert line.endswith("Give each listener a port of its own")


def test_listeners_of_two_addresses_may_share_a_port(config: Path) -> None:
    port = free_port()
    at(config, port, management=f'listen_host = "127.0.0.2"\nlisten_port = {port}')
    succeeded("check-config", config)


@pytest.mark.parametrize("host", ["127.0.0.999", "a host", "1.2.3", "http://x", "-a.example"])
@pytest.mark.parametrize("table", ["management", "ca.status"])
def test_what_is_no_address_to_listen_on(config: Path, table: str, host: str) -> None:
    config.write_text(f'{config.read_text()}\n[{table}]\nlisten_host = "{host}"\n')
    (line,) = refused(config)
    assert line.startswith(f"{table}.listen_host: is neither an IP address nor the name of a host")


@pytest.mark.parametrize("host", ["::", "0.0.0.0", "localhost", "gw-1.ran.example.net", "fe80::1"])  # noqa: S104
def test_what_may_be_listened_on(config: Path, host: str) -> None:
    config.write_text(f'{config.read_text()}\n[management]\nlisten_host = "{host}"\n')
    succeeded("check-config", config)


# --- the CA in the gateway's process ----------------------------------------------------------------------------


def test_an_issuing_ca_that_is_not_listed(config: Path) -> None:
    """All that it issues would be refused: a reload, too, leaves the one of before at work until it is listed."""
    ca = config.parent / "ca"
    assert "operator.intermediates_paths" in succeeded("ca", "roll-issuing", ca)
    (line,) = refused(config)
    assert line.startswith("operator.intermediates_paths: nobody would believe the bundled CA")
    assert "Example Operator Issuing CA G2" in line
    assert f"List {ca / 'issuing.pem'}" in line
    listed = 'intermediates_paths = ["operator/issuing.pem"'
    edit(config, listed, f'{listed}, "ca/issuing.pem"')
    succeeded("check-config", config)


def test_a_root_that_is_not_listed(config: Path) -> None:
    """The new root of the CA, until the gateway has it beside the old one."""
    ca = config.parent / "ca"
    assert "operator.anchors_paths" in succeeded("ca", "roll-root", ca)
    listed = 'anchors_paths = ["operator/root.pem"'
    edit(config, listed, f'{listed}, "ca/root.pem"')
    succeeded("check-config", config)


# --- files of databases -----------------------------------------------------------------------------------------


def test_a_ledger_that_is_no_database(config: Path) -> None:
    (config.parent / "ca" / "ledger.sqlite").write_text("this is no database\n")
    (line,) = refused(config)
    assert line.startswith("ca.ledger_path: ")
    assert "is no database of SQLite" in line
