"""docs/failinfo.md has every failInfo that a device is given, by which rule, with which text."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any, Final

import pytest

from ra_gateway.errors import PKIFailureInfo, TimeRefused

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs/failinfo.md"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs/failinfo.py"))


def test_the_page_is_current(script: dict[str, Any]) -> None:
    """Whoever adds a refusal, or changes what is said of one, writes the page anew."""
    assert PAGE.read_text() == script["reference"](), (
        "run: python docs/failinfo.py > docs/failinfo.md"
    )


def test_no_rule_no_text_and_no_failinfo_is_missing(script: dict[str, Any]) -> None:
    """Of whatever is raised that a peer is answered with."""
    page, known = PAGE.read_text(), script["classes"]()
    sections = dict(re.findall(r"(?ms)^## `(\w+)`\n(.*?)(?=^## )", page))
    refusals = runpy.run_path(str(ROOT / "docs/own_texts.py"))["refusals"]()
    told = [item for item in refusals if item.error in known.keys() - script["OF_THE_CLIENT"]]
    assert len(told) > 400
    for item in told:
        error = known[item.error]
        for fail_info in item.fail_infos or (error.fail_info.name,):
            assert re.search(rf"[| ]{re.escape(item.rule)}[,| ]", sections[fail_info]), item
            assert "...".join(item.phrase) in page
            assert item.phrase or error.phrase in sections[fail_info]


def test_every_class_of_what_is_refused_is_there(script: dict[str, Any]) -> None:
    """With its own failInfo and its own text, but for those that only have others below them."""
    page = PAGE.read_text()
    for name, error in script["classes"]().items():
        if name not in {*script["OF_THE_CLIENT"], "SerialTaken"}:
            assert f"## `{error.fail_info.name}`" in page
            assert f"*{error.phrase}*" in page, name


def test_a_wrong_clock_is_told_as_one() -> None:
    """Not as a header of whatever kind."""
    assert TimeRefused.fail_info is PKIFailureInfo.badTime
    assert "messageTime" in TimeRefused.phrase
