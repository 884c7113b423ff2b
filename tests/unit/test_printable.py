"""Texts of others: what of them may reach a terminal, a log or a page."""

from __future__ import annotations

import io
import json
import logging
import unicodedata
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import structlog
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ra_gateway import logs
from ra_gateway.cli import output
from ra_gateway.errors import PRINTABLE_CHARS, printable

EVIL = "\x1b]0;owned\x07\x1b[2J\r\nERROR forged\x9b31m[red]x[/red]:boom:\u202e\u2066\u200b\x7f\x00\ud800"
UNWELCOME = frozenset("\x1b\x07\r\x9b\u202e\u2066\u200b\x7f\x00\ud800\u2028\u2029")


@pytest.fixture
def _logging() -> Iterator[None]:
    """Leave structlog and the last resort of the standard library as they were."""
    before, last = structlog.get_config(), logging.lastResort
    yield
    structlog.configure(**before)
    logging.lastResort = last


@pytest.mark.parametrize(
    "text,shown",
    [
        ("CN=enb-1,O=Größe 東京 é", "CN=enb-1,O=Größe 東京 é"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("\u202a\u202e\u2066\u2069\u200e\u200f\u061c", "\\u202a\\u202e\\u2066\\u2069\\u200e\\u200f\\u061c"),
        ("a\u2028b\u2029c\x85", "a\\u2028b\\u2029c\\x85"),
        ("a\u200b\u2060\ufeff\u00ad", "a\\u200b\\u2060\\ufeff\\xad"),
        ("\u3164\u115f\u2800\ufe0f\U000e0101", "\\u3164\\u115f\\u2800\\ufe0f\\U000e0101"),
        ("\ud800\udc80", "\\ud800\\udc80"),
        ("\u0378\ue000\U000e0041", "\\u0378\\ue000\\U000e0041"),
        ("a\u00a0b\u3000", "a\\xa0b\\u3000"),
    ],
)  # fmt: skip
def test_what_becomes_of_a_text(text: str, shown: str) -> None:
    """Visible characters and blanks stay; the rest is written out."""
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)), st.integers(40, 100))
def test_any_text(text: str, limit: int) -> None:
    """It is in bounds, has no control and no mark of direction left, and a second time changes nothing."""
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert not {unicodedata.category(char) for char in shown} & {
        "Cc", "Cf", "Cs", "Cn", "Zl", "Zp",
    }  # fmt: skip
    assert printable(shown, limit) == shown
    shown.encode()


def test_a_long_text_ends_in_its_length() -> None:
    """However it was escaped, no more than the limit is left."""
    assert printable("x" * 10**6, 40) == "x" * 16 + "... (1000000 characters)"
    assert len(printable("\x1b" * 100, 50)) == 50
    assert len(printable("y" * 10**6)) == PRINTABLE_CHARS


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize("form", ["json", "console"])
def test_log_lines(form: Literal["json", "console"], capfd: pytest.CaptureFixture[str]) -> None:
    """Values, whatever their shape, the event itself and the text of an exception: all in one line each."""
    logs.configure(form, "info")
    log = structlog.get_logger()
    log.info(EVIL, subject=EVIL, quirks=[EVIL], more={EVIL: (EVIL,)}, error=ValueError(EVIL))
    written = capfd.readouterr().err
    assert written.count("\n") == 1
    assert written.endswith("\n")
    assert not UNWELCOME & set(written)
    if form == "json":
        assert not UNWELCOME & set(_texts(json.loads(written)))
        assert "\n" not in _texts(json.loads(written))
    try:
        raise RuntimeError("\x1b[2J\u202e")
    except RuntimeError:
        log.exception("failed")
    written = capfd.readouterr().err
    assert "RuntimeError: \\x1b[2J" in written.replace("\\\\", "\\")
    assert not UNWELCOME & set(written)


def _texts(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(_texts(item) for pair in value.items() for item in pair)
    return "".join(map(_texts, value)) if isinstance(value, list) else str(value)


@pytest.mark.usefixtures("_logging")
def test_what_libraries_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard library's last resort writes the same lines, with the same cleaning."""
    logs.configure("json", "info")
    other = logging.getLogger("some.library")
    monkeypatch.setattr(other, "propagate", False)
    other.error("bad peer %s", EVIL)
    line = json.loads(capfd.readouterr().err)
    assert (line["logger"], line["level"]) == ("some.library", "error")
    assert not UNWELCOME & set(line["event"])


@pytest.mark.parametrize("terminal", [True, False])
def test_what_commands_print(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sentences, failures, facts and tables: markup and emoji codes are text, and a text has one line."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=4000, color_system=None)
    monkeypatch.setattr(output, "out", console)
    monkeypatch.setattr(output, "err", console)
    monkeypatch.setattr(typer, "echo", lambda text: written.write(text + "\n"))
    output.say(EVIL)
    output.note(EVIL)
    output.show_facts({"subject": "Subject"}, {"subject": EVIL}, as_json=False)
    output.show_table(["Subject"], [[EVIL]])
    with pytest.raises(typer.Exit):
        output.fail([EVIL], 1)
    text = written.getvalue()
    assert not UNWELCOME & set(text)
    assert text.count("[red]x[/red]:boom:") == 5
    assert sum("forged" in line for line in text.splitlines()) == 5
    assert not any(line.startswith("ERROR forged") for line in text.splitlines())
    written.truncate(0)
    written.seek(0)
    output.show_list({"subject": "Subject"}, [{"subject": EVIL}], as_json=True)
    assert not UNWELCOME & set(written.getvalue())
    assert json.loads(written.getvalue()) == [{"subject": EVIL}]
