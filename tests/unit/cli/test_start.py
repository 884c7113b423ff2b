"""What the command line imports: help, completion and a refusal need next to nothing of what the commands do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from ra_gateway.cli.output import KIND_NAMES
from ra_gateway.keys import KEY_KINDS
from tests.support.pki import VendorPKI
from tests.support.setups import make_setup

HEAVY: Final = frozenset(
    (
        *(
            "aiohttp",
            "alembic",
            "asyncio",
            "asyncpg",
            "cryptography",
            "greenlet",
            "ldap3",
            "pkcs11",
        ),
        *("pkilint", "pyasn1", "redis", "sqlalchemy", "structlog", "uvloop"),
    )
)

_CODE: Final = """\
import json, os, sys
import typer.main
from ra_gateway.cli.main import app

program = typer.main.get_command(app)

def imported(*arguments):
    try:
        program.main(arguments, standalone_mode=True, prog_name="ra-gateway")
    except SystemExit as ended:
        code = ended.code
    return [code, sorted(sys.modules)]

def walk(group, *names):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from walk(command, *names, name)
        yield (*names, name)

found = {"--help": imported("--help")}
for names in walk(program):
    found[" ".join(names)] = imported(*names, "-h")
os.environ.update(_RA_GATEWAY_COMPLETE="complete_bash", COMP_WORDS="ra-gateway ca li", COMP_CWORD="2",
                  _TYPER_COMPLETE_ARGS="ra-gateway ca li")
found["TAB"] = imported()
del os.environ["_RA_GATEWAY_COMPLETE"]
found["show"] = imported("show", "tests/vectors/ir.der")
found["doctor --explain"] = imported("doctor", "--explain", "no path from CN=enb-1 to an anchor of acme")
found["approvals list -c nowhere"] = imported("approvals", "list", "-c", "/nowhere/gateway.toml")
json.dump(found, sys.stderr)
"""


def test_help_and_completion_import_nothing_of_the_gateway() -> None:
    """Neither of all commands, of a group or of one; and the requests that wait are listed without SQL and linter."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
    )
    *_, last = done.stderr.splitlines()
    found: dict[str, tuple[int, list[str]]] = json.loads(last)
    code, modules = found.pop("approvals list -c nowhere")
    explained, shown = found.pop("doctor --explain"), found.pop("show")
    (*helps,) = found.items()
    assert len(helps) > 50
    for name, (ended, imported) in helps:
        assert (name, ended) == (name, 0)
        assert (name, sorted(HEAVY.intersection(imported))) == (name, [])
        ours = [item for item in imported if item.startswith("ra_gateway.")]
        assert len([item for item in ours if not item.startswith("ra_gateway.cli")]) < 10, ours
    assert "\nlist\n" in f"\n{done.stdout}"
    assert code == 2
    assert {"sqlalchemy", "pkilint", "alembic", "asyncpg", "pkcs11"}.isdisjoint(modules)
    assert {"ra_gateway.app.application", "prometheus_client", "aiohttp.web"}.isdisjoint(modules)
    for ended, imported in (shown, explained):
        assert ended == 0
        assert sorted((HEAVY - {"cryptography"}).intersection(imported)) == []


_CLIENTS: Final = frozenset(
    (
        "aiohttp",
        "alembic",
        "asyncpg",
        "pkilint",
        "prometheus_client",
        "pyasn1",
        "redis",
        "sqlalchemy",
    )
)
"""Of other machines and of databases, what they are watched with, and what lints certificates."""

_NO_LEDGER: Final = _CLIENTS | {"structlog", "uvloop"}
_LEDGER: Final = _CLIENTS - {"sqlalchemy"}

_JUDGES: Final = frozenset(
    f"ra_gateway.{name}" for name in ("cmp.requests", "cmp.trust", "ra.endpoints", "ra.machine")
)
"""What judges messages; `approvals approve` changes a transaction by the machine that judged it."""

LOADS_NONE_OF: Final[dict[str, frozenset[str]]] = {
    "approvals list": _NO_LEDGER | _JUDGES,
    "approvals approve 0123456789": _NO_LEDGER,
    "inventory check devices.csv": _NO_LEDGER | _JUDGES,
    "revocation": _CLIENTS - {"aiohttp"},
    "why enb-1": _LEDGER,
    "ca list": _LEDGER,
    "ca show 01": _LEDGER,
    "ca history enb-1": _LEDGER,
    "ca verify": _LEDGER,
    "ca profiles": _NO_LEDGER,
    "ca entity list": _LEDGER,
    "ca ra list": _LEDGER,
    "ca role list": _LEDGER,
}
"""What commands do not load, where the store is in memory, the list of devices a file and the ledger in SQLite."""

_CHILDREN: Final = """\
import json, os, sys
import typer.main
from ra_gateway.cli.main import app

program = typer.main.get_command(app)
for command in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        try:
            program.main(command.split(), standalone_mode=True, prog_name="ra-gateway")
        except SystemExit as ended:
            code = ended.code
        print("loaded", json.dumps([command, code, sorted(sys.modules)]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_what_reads_a_configuration_imports_no_client(
    tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """A table of an upstream, a list or a ledger is read without what would speak with it."""
    config = make_setup(tmp_path / "site", vendors={"acme": vendor_pki})
    (tmp_path / "devices.csv").write_text("vendor,identity,subject,san,enabled\n")
    done = subprocess.run(
        [sys.executable, "-c", _CHILDREN, json.dumps(list(LOADS_NONE_OF))],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "RA_GATEWAY_CONFIG": str(config),
        },
    )
    found = [
        json.loads(line.removeprefix("loaded "))
        for line in done.stdout.splitlines()
        if line.startswith("loaded ")
    ]
    assert [command for command, _, _ in found] == list(LOADS_NONE_OF)
    for command, _, modules in found:
        assert "ra_gateway.config.tables" in modules, command  # it came as far as the configuration
        assert (command, sorted(LOADS_NONE_OF[command].intersection(modules))) == (command, [])


def test_the_kinds_of_keys_are_those_that_can_be_made() -> None:
    """They stand twice, since what makes them takes long to import."""
    assert tuple(KEY_KINDS) == KIND_NAMES
