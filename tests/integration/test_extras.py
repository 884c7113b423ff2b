"""A gateway in front of a CA of somebody else carries no SQL, no linter and no PKCS#11: none is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.pki import VendorPKI
from tests.support.setups import edit, http_upstream, make_setup, set_upstream

_BLOCKED: Final = """\
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
"""
SQL: Final = ("sqlalchemy", "alembic", "greenlet", "pkilint")
ALL: Final = (*SQL, "asyncpg", "pkcs11")

_SERVE: Final = """\
import asyncio
from pathlib import Path
from ra_gateway.app.application import Application
from ra_gateway.app.running import check
from ra_gateway.config.reading import load
from ra_gateway.device.client import NotCMP, post
import aiohttp
async def main():
    config = load(Path(sys.argv[1]))
    application = Application(config)
    host, port = await application.start()
    async with aiohttp.ClientSession() as session:
        answer = await post(session, f"http://{host}:{port}/pkix", b"0\\x03abc")
    print("answered", len(answer) > 100)
    await application.stop()
asyncio.run(main())
"""


def python(code: str, *arguments: str | Path, blocked: tuple[str, ...] = ALL) -> tuple[int, str]:
    """Run some code where modules are missing; returns exit code and all output."""
    done = subprocess.run(
        [sys.executable, "-c", _BLOCKED.format(blocked=blocked) + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def command(*arguments: str | Path, blocked: tuple[str, ...] = ALL) -> tuple[int, str]:
    """Run `ra-gateway`."""
    return python("from ra_gateway.cli.main import main\nmain()", *arguments, blocked=blocked)


@pytest.fixture
def remote(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """Configuration of a gateway in front of a CA of somebody else."""
    path = make_setup(tmp_path, vendors={"acme": vendor_pki})
    text = path.read_text()
    path.write_text(
        text[: text.index("[ca]\n")] + text[text.index("[endpoints.ran]") :].split("[ca.server]")[0]
    )
    set_upstream(path, http_upstream("http://127.0.0.1:1/cmp"))
    return path


def test_it_serves(remote: Path) -> None:
    """Imported, checked, started; a message is answered."""
    assert python(_SERVE, remote)[1].splitlines()[-1] == "answered True"
    code, said = command("check-config", "--config", remote)
    assert (code, ": good." in said) == (0, True)
    code, said = command("--help")
    assert (code, "check-config" in said) == (0, True)
    code, said = command("doctor", "--config", remote)
    assert (code, "TCP: 127.0.0.1:1" in said) == (1, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ca", "list"),
        ("ca", "ra", "list"),
        ("ca", "sign", "x", "--out", "NEW"),
        ("init", "NEW"),
        ("demo",),
    ],
)
def test_commands_of_the_bundled_ca_name_what_to_install(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """Exit code 2 and one sentence."""
    code, said = command(*(str(tmp_path / "new") if item == "NEW" else item for item in arguments))
    assert code == 2
    assert "pip install 'ra-gateway[ca]'" in said
    assert len(said.splitlines()) == 1


def test_a_configuration_with_the_bundled_ca(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """check-config names the extra and the setting."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    for blocked in (ALL, ("sqlalchemy",), ("pkilint",)):
        code, said = command("check-config", "--config", config, blocked=blocked)
        assert (code, "pip install 'ra-gateway[ca]'" in said) == (2, True), said
    assert command("check-config", "--config", config, blocked=("asyncpg", "pkcs11"))[0] == 0
    ledger = 'ledger_url = "postgresql://127.0.0.1:1/ledger"'
    edit(config, 'ledger_path = "ca/ledger.sqlite"', ledger)
    code, said = command("check-config", "--config", config, blocked=("asyncpg",))
    assert (code, "pip install 'ra-gateway[postgres]'" in said) == (2, True), said


def test_an_inventory_in_a_database(remote: Path) -> None:
    """The table is named, and the extra; with a file, none is needed."""
    text = remote.read_text()
    (remote.parent / "devices.sqlite").write_bytes(b"x")
    remote.write_text(f'{text}\n[inventory.sql]\nsqlite_path = "devices.sqlite"\n')
    code, said = command("check-config", "--config", remote)
    assert (code, "inventory.sql: needs sqlalchemy" in said) == (2, True), said
    assert "pip install 'ra-gateway[ca]'" in said
    (remote.parent / "devices.csv").write_text("domain,identity,subject,san,enabled\n")
    remote.write_text(f'{text}\n[inventory]\ncsv_path = "devices.csv"\n')
    code, said = command("inventory", "check", "--config", remote)
    assert (code, "0 devices" in said) == (0, True), said


def test_a_key_in_an_hsm(remote: Path) -> None:
    """The key file is named, and the extra."""
    (remote.parent / "ra" / "ra.key").write_text("pkcs11:token=t;object=ra?module-path=/x.so\n")
    code, said = command("check-config", "--config", remote, blocked=("pkcs11",))
    assert (code, "ra.key_path" in said, "pip install 'ra-gateway[hsm]'" in said) == (
        2,
        True,
        True,
    ), said
