"""The documents say what the code does: generated ones are up to date, written ones are complete."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ra_gateway.cli.main import app

ROOT = Path(__file__).parents[2]
REQUIREMENTS = runpy.run_path(str(ROOT / "docs/requirements.py"))
CLI = (ROOT / "docs/cli.md").read_text()

NEEDED = frozenset(
    number
    for first, last in (
        (1, 37),
        (46, 63),
        (67, 71),
        (73, 90),
        (94, 115),
        (139, 155),
        (159, 160),
    )
    for number in range(first, last + 1)
)
"""Requirements that enrolment and renewal touch."""

STATED: frozenset[int] = frozenset()
"""Those of them that may wait, for the reason given in docs/requirements.py: none."""


def commands(group: Any, name: str = "ra-gateway") -> Iterator[tuple[str, Any]]:
    """Yield full name and object of a command, and of all commands below it."""
    yield name, group
    for child_name, child in getattr(group, "commands", {}).items():
        yield from commands(child, f"{name} {child_name}")


COMMANDS = {
    name: command
    for name, command in commands(typer.main.get_command(app))
    if name == "ra-gateway" or not hasattr(command, "commands")
}


def section(name: str) -> str:
    """Return what docs/cli.md says of a command, "" if nothing."""
    found = re.search(rf"^## `{name}( [A-Z_ ]+)?`\n(.*?)(?=^#|\Z)", CLI, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def test_the_table_of_requirements_is_up_to_date() -> None:
    """The committed file is what docs/requirements.py writes."""
    assert (ROOT / "docs/requirements.md").read_text() == REQUIREMENTS["requirements"](), (
        "run: python docs/requirements.py > docs/requirements.md"
    )


def test_every_requirement_is_in_the_table_once() -> None:
    """R1..R160, in order."""
    numbers = [number for rows in REQUIREMENTS["REQUIREMENTS"].values() for number in rows]
    assert numbers == list(range(1, 161))


def test_what_enrolment_and_renewal_need_is_tested() -> None:
    """Each requirement has a test, or its absence was decided."""
    tested = set(REQUIREMENTS["tests_by_requirement"]())
    assert NEEDED - tested == STATED
    assert set(REQUIREMENTS["UNTESTED"]) & NEEDED == STATED


def test_reasons_are_of_two_kinds() -> None:
    """What is missing comes later, or does not apply."""
    kinds = (REQUIREMENTS["LATER"], REQUIREMENTS["OUTSIDE"])
    reasons = REQUIREMENTS["UNTESTED"].values()
    assert [reason for reason in reasons if not reason.startswith(kinds)] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line_is_documented(name: str) -> None:
    """A section for every command; in it every argument and every option, and no other option."""
    text = section(name)
    assert text, f"docs/cli.md has no section `{name}`"
    parameters = COMMANDS[name].params
    options = {
        flag
        for parameter in parameters
        if parameter.param_type_name == "option"
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    rows = re.findall(r"^\| (`-.*?) \|", text, re.MULTILINE)
    documented = set(re.findall(r"`(--?[a-z-]+)`", " ".join(rows)))
    assert documented - {"--help"} == options - {"--help"}
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            assert parameter.name.upper() in text.splitlines()[0]


def test_the_documents_name_files_that_exist() -> None:
    """Links between the documents of the project lead somewhere."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]
    dead = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert dead == []


def test_the_readme_names_the_targets_that_make_has() -> None:
    """`make WORD` in the README is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z]+)", (ROOT / "README.md").read_text(), re.M))
    assert named - targets == set()
    assert {"demo", "test"} <= named


def test_the_threat_model_names_tests_that_exist() -> None:
    """Every `tests/...py::name` in docs/security.md is a test function in that file."""
    text = (ROOT / "docs/security.md").read_text()
    named = set(re.findall(r"(tests/[\w/]+\.py)::(\w+)", text))
    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not (ROOT / file).is_file()
        or not re.search(rf"^ *(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []
    assert len(named) > 100


def test_the_threat_model_leaves_no_attack_without_a_test() -> None:
    """Each row of the tables of attacks ends with a test; none says which is still to be written."""
    text = (ROOT / "docs/security.md").read_text()
    attacks = text[text.index("## Attacks") :]
    rows = [line for line in attacks.splitlines() if line.startswith("| ")]
    wanting = [
        row
        for row in rows
        if not row.startswith(("| Attack |", "| Fault |"))
        and not re.search(r"(`tests/[\w/]+\.py::\w+`(, )?)+ \|$", row)
    ]
    assert wanting == []
    assert "(test:" not in text
