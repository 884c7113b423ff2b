"""Every text that the gateway and its CA refuse or fail with is known to `doctor --explain`."""

from __future__ import annotations

import inspect
import json
import re
import runpy
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from ra_gateway import errors
from ra_gateway.app.doctor.own_texts import (
    LEAST_LITERAL,
    OwnText,
    _table,
    explain_line,
    explain_own,
    meaning,
    own_texts,
    recognised,
)
from ra_gateway.cli.main import app
from tests.support.commandline import run, succeeded

ROOT: Final = Path(__file__).parents[2]


def test_the_texts_are_those_of_the_code() -> None:
    """Whoever adds a refusal, or words one anew, has it taken up."""
    sites = runpy.run_path(str(ROOT / "docs/own_texts.py"))["sites"]()
    kept = json.loads((ROOT / "ra_gateway/app/doctor/own_texts.json").read_text())
    assert [[error, rule, list(pieces)] for error, rule, pieces in sites] == kept, (
        "run: python docs/own_texts.py > ra_gateway/app/doctor/own_texts.json"
    )
    assert len(kept) > 500


def said(item: OwnText) -> str:
    """A text as it may be said: something stands between its parts."""
    return "CN=enb-1,O=Example" + " 12 ".join(item.pieces) + " 34"


def test_every_text_is_known_and_has_a_meaning() -> None:
    """By its own parts; where hardly any are its own, by class and rule."""
    for item in own_texts():
        assert meaning(item.error, item.rule, said(item)) is not None, item
        if item.length >= LEAST_LITERAL:
            found = recognised(said(item), item.rule)
            assert found is not None
            assert found.length >= item.length
            assert explain_own(said(item), item.rule) is not None
            assert explain_line(said(item)) != []


def test_no_row_stands_behind_one_that_takes_everything_from_it() -> None:
    """Each is reached by the text and the rule that it is for."""
    table = _table()
    for row in table["rows"]:
        found = meaning("", row.get("rule", ""), row.get("text", ""))
        assert found is not None
        assert found.cause == row["cause"]


def test_each_row_is_about_something_that_is_said() -> None:
    """Its text or rule is in the code; its class is one."""
    texts = own_texts()
    table = _table()
    for row in table["rows"]:
        assert any(
            row.get("rule", item.rule) == item.rule
            and row.get("text", "") in "".join(item.pieces).casefold()
            for item in texts
        ), row
    assert {item.error for item in texts} <= set(table["classes"])


def test_what_is_advised_is_there() -> None:
    """Commands and keys, so that nobody looks for what does not exist."""
    text = (ROOT / "docs/configuration.md").read_text()
    keys = {*re.findall(r"^\| `(\w+)`", text, re.MULTILINE)}
    for table in re.findall(r"^## `([\w.<>\[\]]+)", text, re.MULTILINE):
        keys |= set(re.findall(r"\w+", table))
    program = typer.main.get_command(app)
    for row in (*_table()["rows"], *_table()["classes"].values()):
        assert row["who"] in ("device", "operator", "ca")
        for command in re.findall(
            r"`(?:ra-gateway )?((?:ca|approvals|doctor|show|revocation)[a-z -]*)", row["todo"]
        ):
            place: Any = program
            for word in command.split(" -")[0].split():
                assert word in place.commands, command
                place = place.commands[word]
        for key in re.findall(
            r"(?<!/)\b(?:endpoints|vendors|upstreams|ca|operator|store|inventory)\.[\w.]+",
            row["todo"],
        ):
            assert {*key.rstrip(".").split(".")} - {"NAME"} <= keys, key


@pytest.mark.parametrize(
    "line, cause",
    [
        ("CN=A004 (issuer CN=evil) is valid from 2020-01-01 to 2021-01-01 only", "not valid at our time"),
        ("messageTime 20261130Z is 7199 s ahead of our clock; 300 s are allowed", "device's clock"),
        ("CN=A005 is not in the inventory of acme (identity A005)", "does not list the device"),
        ("the end entity enb-1 is blocked", "is blocked at the bundled CA"),
        ("CN=enb-1 (serial 12) is revoked: the CRL lists it", "the signer was revoked"),
        ('{"event": "ir", "rule": "R67", "detail": "x", "fail_info": "notAuthorized"}', "a name that its rules"),
        ('nov 30 host ra[1]: {"detail": "CN=a is disabled in the inventory", "rule": "R145"}', "with enabled false"),
        (errors.SignerNotTrusted.phrase, "is not trusted"),
        ('{"detail": "ca answered with error: rejection badTime Wrong", "rule": "R89"}', "clocks of gateway and"),
    ],
)  # fmt: skip
def test_lines_and_texts_are_explained(line: str, cause: str) -> None:
    """Out of the log, with what journald puts before it, or what the device was told."""
    (found,) = explain_line(line)
    assert cause in found.cause
    assert cause in succeeded("doctor", "--explain", line)
    (row,) = json.loads(succeeded("doctor", "--explain", line, "--json"))
    assert row == {"who": found.who, "cause": found.cause, "setting": found.todo}


def test_every_sentence_that_devices_read_is_known() -> None:
    classes = [item for item in vars(errors).values() if inspect.isclass(item)]
    for item in classes:
        if issubclass(item, errors.CMPError) and item is not errors.CMPError:
            assert explain_line(f"rejection: {item.phrase}") != [], item


def test_a_text_of_nobody_is_not_blamed_on_the_ca() -> None:
    ended = run("doctor", "--explain", "hello")
    assert ended.exit_code == 1
    assert "none of ours" in ended.stderr


@pytest.mark.parametrize(
    "text",
    [
        "no path from CN=enb-1 to an anchor of acme",  # as the help has it
        "no path from ... to an anchor of acme: CN=acme Root CA",
        "is 7199 s ahead of our clock; 300 s are allowed",
    ],
)
def test_a_line_as_somebody_recalls_it_is_known(text: str) -> None:
    (meaning,) = explain_line(text)
    assert meaning.todo


@pytest.mark.parametrize("text", ["", "no", "nobody knows this one", "CN=enb-1"])
def test_a_few_words_are_no_text_of_ours(text: str) -> None:
    assert explain_line(text) == []


@pytest.mark.parametrize("text", ['{"a": ' * 9000, '{"detail": ' + "[" * 9000])
def test_a_text_of_any_depth_is_read(text: str) -> None:
    assert explain_line(text) == []
