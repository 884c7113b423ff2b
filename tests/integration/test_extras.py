"""A gateway in front of a CA of somebody else carries no SQL, no linter and no PKCS#11: none is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.pki import VendorPKI
from tests.support.setups import edit, http_upstream, make_setup, set_upstream

_PARENT: Final = """\
import gc, json, os, sys

class Missing:
    blocked = set(sys.argv[1:])
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in cls.blocked:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Missing)
import ra_gateway.app.application, ra_gateway.app.running, ra_gateway.cli.main
gc.freeze()
for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 1)
        os.dup2(1, 2)
        Missing.blocked = set(job["blocked"])
        sys.argv[1:] = job["arguments"]
        exec(job["code"])
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports the program where modules are missing, and has each child try something, perhaps with other ones missing."""

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


class Tool:
    """The program where modules are missing."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process, self._directory = process, directory
        self._count = 0

    def python(
        self, code: str, *arguments: str | Path, blocked: tuple[str, ...] = ALL
    ) -> tuple[int, str]:
        """Run some code; returns exit code and all output."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._count += 1
        output = self._directory / f"output-{self._count}"
        job = {
            "code": code,
            "arguments": [*map(str, arguments)],
            "blocked": blocked,
            "output": str(output),
        }
        print(json.dumps(job), file=self._process.stdin, flush=True)
        ended = self._process.stdout.readline()
        said = output.read_text()
        assert "Traceback" not in said, said
        return int(ended), said

    def command(self, *arguments: str | Path, blocked: tuple[str, ...] = ALL) -> tuple[int, str]:
        """Run `ra-gateway`."""
        run = "from ra_gateway.cli.main import main\nmain()"
        return self.python(run, *arguments, blocked=blocked)


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """A process that has imported the gateway without any of the modules; commands are its children."""
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, *ALL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        yield Tool(process, tmp_path_factory.mktemp("extras"))
        process.communicate()


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


def test_it_serves(tool: Tool, remote: Path) -> None:
    """Imported, checked, started; a message is answered."""
    assert tool.python(_SERVE, remote)[1].splitlines()[-1] == "answered True"
    code, said = tool.command("check-config", "--config", remote)
    assert (code, ": good." in said) == (0, True)
    code, said = tool.command("--help")
    assert (code, "check-config" in said) == (0, True)
    code, said = tool.command("doctor", "--config", remote)
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
    tool: Tool, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    """Exit code 2 and one sentence."""
    code, said = tool.command(
        *(str(tmp_path / "new") if item == "NEW" else item for item in arguments)
    )
    assert code == 2
    assert "pip install 'ra-gateway[ca]'" in said
    assert len(said.splitlines()) == 1


def test_a_configuration_with_the_bundled_ca(
    tool: Tool, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """check-config names the extra and the setting."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    for blocked in (ALL, ("sqlalchemy",), ("pkilint",)):
        code, said = tool.command("check-config", "--config", config, blocked=blocked)
        assert (code, "pip install 'ra-gateway[ca]'" in said) == (2, True), said
    assert tool.command("check-config", "--config", config, blocked=("asyncpg", "pkcs11"))[0] == 0
    ledger = 'ledger_url = "postgresql://127.0.0.1:1/ledger"'
    edit(config, 'ledger_path = "ca/ledger.sqlite"', ledger)
    code, said = tool.command("check-config", "--config", config, blocked=("asyncpg",))
    assert (code, "pip install 'ra-gateway[postgres]'" in said) == (2, True), said


def test_an_inventory_in_a_database(tool: Tool, remote: Path) -> None:
    """The table is named, and the extra; with a file, none is needed."""
    text = remote.read_text()
    (remote.parent / "devices.sqlite").write_bytes(b"x")
    remote.write_text(f'{text}\n[inventory.sql]\nsqlite_path = "devices.sqlite"\n')
    code, said = tool.command("check-config", "--config", remote)
    assert (code, "inventory.sql: needs sqlalchemy" in said) == (2, True), said
    assert "pip install 'ra-gateway[ca]'" in said
    (remote.parent / "devices.csv").write_text("domain,identity,subject,san,enabled\n")
    remote.write_text(f'{text}\n[inventory]\ncsv_path = "devices.csv"\n')
    code, said = tool.command("inventory", "check", "--config", remote)
    assert (code, "0 devices" in said) == (0, True), said


def test_a_key_in_an_hsm(tool: Tool, remote: Path) -> None:
    """The key file is named, and the extra."""
    (remote.parent / "ra" / "ra.key").write_text("pkcs11:token=t;object=ra?module-path=/x.so\n")
    code, said = tool.command("check-config", "--config", remote, blocked=("pkcs11",))
    assert (code, "ra.key_path" in said, "pip install 'ra-gateway[hsm]'" in said) == (
        2,
        True,
        True,
    ), said
