"""Commands that are printed run as they are printed: with the configuration that was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from ra_gateway.cli.runnable import give, runnable
from tests.support.commandline import run

FILE = Path("a b/ca.toml")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Next: ra-gateway ca verify", "Next: ra-gateway ca verify{}"),
        ("`ra-gateway ca ra list` shows all", "`ra-gateway ca ra list{}` shows all"),
        ("ra-gateway ca ra show x; or ca list", "ra-gateway ca ra show{} x; or ca list"),
        ("`ra-gateway reload`, `ra-gateway why`", "`ra-gateway reload{}`, `ra-gateway why{}`"),
        ("-u ra-gateway -o cat | ra-gateway why A -", "-u ra-gateway -o cat | ra-gateway why{} A -"),
        ("Run `ra-gateway ca migrate --config FILE` now", "Run `ra-gateway ca migrate --config FILE` now"),
        ("ra-gateway ca revoke 5b -c x", "ra-gateway ca revoke 5b -c x"),
        ("ra-gateway ca roll-issuing ca", "ra-gateway ca roll-issuing ca"),
        ("the log of ra-gateway and its doctor", "the log of ra-gateway and its doctor"),
        ("ra-gateway ca listed", "ra-gateway ca listed"),
    ],
)  # fmt: skip
def test_what_takes_a_configuration_is_given_it(text: str, expected: str) -> None:
    """In a pipe, in quotation marks, beside another one; what has one, or takes none, stays as it is."""
    give(None)
    assert runnable(text) == text
    give(FILE, ["log.level=debug"])
    assert runnable(text) == expected.replace("{}", " --config 'a b/ca.toml' --set log.level=debug")
    give(None)
    assert runnable(text) == text


def test_a_command_goes_by_its_own_options_alone(tmp_path: Path) -> None:
    """What one was given is forgotten by the next; a FILE is as good as --config."""
    missing = tmp_path / "none.toml"
    for given in (("--config", missing), (missing,)):
        assert run("check-config", *given).exit_code == 2
        assert runnable("ra-gateway doctor") == f"ra-gateway doctor --config {missing}"
    run("samples")
    assert runnable("ra-gateway doctor") == "ra-gateway doctor"
