"""The documents say what the code does: generated ones are up to date, written ones are complete."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

from ra_gateway.cli.main import app
from ra_gateway.events import Fact

ROOT = Path(__file__).parents[2]
REQUIREMENTS = runpy.run_path(str(ROOT / "docs/requirements.py"))
CLI = (ROOT / "docs/cli.md").read_text()
REFERENCE = (ROOT / "docs/cli-reference.md").read_text()
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]

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


GROUPS = {
    name
    for name, command in commands(typer.main.get_command(app))
    if name != "ra-gateway" and hasattr(command, "commands")
}

COMMANDS = {
    name: command
    for name, command in commands(typer.main.get_command(app))
    if name == "ra-gateway" or not hasattr(command, "commands")
}


def section(name: str) -> str:
    """Return what docs/cli.md says of a command, "" if nothing."""
    found = re.search(rf"^### `{name}( [A-Z_ ]+)?`\n(.*?)(?=^#|\Z)", CLI, re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def test_the_table_of_requirements_is_up_to_date() -> None:
    """The committed file is what docs/requirements.py writes."""
    assert (ROOT / "docs/requirements.md").read_text() == REQUIREMENTS["requirements"](), (
        "run: python docs/requirements.py > docs/requirements.md"
    )


def test_every_requirement_is_in_the_table_once() -> None:
    """R1..R160, then T1..T54, each in order."""
    names = [name for rows in REQUIREMENTS["REQUIREMENTS"].values() for name in rows]
    assert names == [*range(1, 161), *(f"T{number}" for number in range(1, 55))]


def test_a_requirement_has_tests_or_a_reason_and_never_both() -> None:
    """A number that is no test's, and a reason that has become untrue, are told apart."""
    cell = REQUIREMENTS["_cell"]
    with pytest.raises(ValueError, match=r"^T55 needs a test, or a reason in UNTESTED$"):
        cell("T55", [])
    with pytest.raises(ValueError, match=r"^T54 has tests: drop its entry in UNTESTED$"):
        cell("T54", ["unit/test_acme.py::test_it"])
    with pytest.raises(ValueError, match=r"^R161 needs a test"):
        cell(161, [])
    assert cell(1, ["a", "b"]) == "`a`<br>`b`"


def test_a_marker_names_rows_of_both_kinds() -> None:
    """Numbers are R rows, strings T rows; module marks and marks of cases count as well."""
    module = ast.parse(
        "pytestmark = pytest.mark.requirement('T9')\n"
        "@pytest.mark.requirement(26, 'T8')\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.requirement('T1'))])\n"
        "def test_it(x): ...\n"
    )
    inherited = frozenset(REQUIREMENTS["_module_marks"](module.body))
    assert dict(REQUIREMENTS["_tests"](module.body, inherited)) == {
        "test_it": {26, "T1", "T8", "T9"}
    }


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


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "ra-gateway"])
def test_the_command_line_is_documented(name: str) -> None:
    """In the generated page every option; docs/cli.md has those alone of which it says more, and no other."""
    options = {
        flag: parameter
        for parameter in COMMANDS[name].params
        if parameter.param_type_name == "option"
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }
    generated = re.search(rf"^## `{name}`\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert generated is not None
    assert (
        set(options) - set(re.findall(r"--?[a-z][a-z-]*", generated[1])) - {"--help", "-h"} == set()
    )
    text = section(name)
    for row, said in re.findall(r"^\| (`-.*?) \| (.*) \|$", text, re.MULTILINE):
        for flag in re.findall(r"`(--?[a-z-]+)`", row):
            assert flag in options
            assert said.replace("`", "") not in (options[flag].help or "")
    for parameter in COMMANDS[name].params:
        if text and parameter.param_type_name == "argument":
            assert parameter.name.upper() in text.splitlines()[0]


def test_sections_of_commands_are_of_commands_that_there_are() -> None:
    """docs/cli.md has none of a command that went."""
    named = re.findall(r"^#+ `(ra-gateway[a-z -]*?)(?: [A-Z_ ]+)?`$", CLI, re.MULTILINE)
    assert len(named) > 30
    assert [name for name in named if name not in COMMANDS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_rows_of_tables_have_as_many_cells_as_their_heads(page: Path) -> None:
    """A bar in a cell is escaped, also in code: GitHub ends the cell at any other."""
    for table in re.findall(r"(?:^\|.*\|\n)+", page.read_text(), re.MULTILINE):
        head, *rows = table.splitlines()
        wide = [row for row in rows if bars(row) != bars(head)]
        assert wide == []


def bars(row: str) -> int:
    """Return how many bars of a row part cells."""
    return len(re.findall(r"(?<!\\)\|", row))


def test_the_manual_and_the_completion_are_up_to_date() -> None:
    """The committed files, docs/cli-reference.md among them, are what docs/manual.py writes from the commands."""
    written = runpy.run_path(str(ROOT / "docs/manual.py"))["files"]()
    assert len(written) == 5
    stale = [name for name in written if (ROOT / name).read_text() != written[name]]
    assert stale == [], "run: python docs/manual.py"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "ra-gateway"])
def test_help_has_examples_and_no_types(name: str) -> None:
    """Examples that the parser takes; values in capitals, or what may stand there; a sentence for each."""
    command = COMMANDS[name]
    lines = (command.epilog or "").replace("\\\n", " ").splitlines()[2:]
    assert lines
    assert all(f" {name.partition(' ')[2]} " in f"{line} " for line in lines)
    assert [fault for line in lines for fault in faults(line, whole=True)] == []
    context = command.context_class(command, info_name=name)
    usage = command.get_usage(context)
    assert not re.search(r"[<{]", usage), usage
    for parameter in command.params:
        assert parameter.help, parameter.name
        if not getattr(parameter, "is_flag", False):
            choices = parameter.type_descriptor.choices
            assert choices or re.match(r"[A-Z_]{3,}|pkcs11:", parameter.metavar), parameter.name


def test_every_list_can_be_printed_for_programs() -> None:
    """What prints a table has --json."""
    lists = [
        name
        for name in COMMANDS
        if re.search(
            r" (list|show|history|profiles|expiries|revocation|doctor|why|replay|export|check|check-config)$",
            name,
        )
    ]
    assert len(lists) > 16
    without = [
        name for name in lists if all("--json" not in item.opts for item in COMMANDS[name].params)
    ]
    assert without == []


def test_the_documents_name_files_that_exist() -> None:
    """Links between the documents of the project lead somewhere."""
    dead = [
        f"{document.name}: {target}"
        for document in PAGES
        for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert dead == []


def anchors(page: Path) -> set[str]:
    """Return what links into a page may name: its headings as GitHub and Markdown's own tools write them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in plain}


def test_links_lead_to_sections() -> None:
    """A link with # names a heading of the page that it leads to."""
    links = [
        (document, document.parent / target if target else document, anchor)
        for document in PAGES
        for target, anchor in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", document.read_text())
    ]
    assert len(links) > 30
    dead = [
        f"{document.name}: {page.name}#{anchor}"
        for document, page, anchor in links
        if anchor not in anchors(page)
    ]
    assert dead == []


def test_the_documents_name_targets_that_make_has() -> None:
    """`make WORD` on any page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        word
        for page in PAGES
        for word in re.findall(r"(?:^ +|`)make (?:[A-Z]+=\S+ )*([a-z-]+)", page.read_text(), re.M)
    }
    assert named - targets == set()
    assert {"demo", "test", "fuzz-cost"} <= named


def test_the_table_of_rooms_names_what_the_package_has() -> None:
    """docs/architecture.md has a row for each subpackage and module of ra_gateway, and for nothing else."""
    text = (ROOT / "docs/architecture.md").read_text()
    table = text[text.index("## Rooms") : text.index("## The gateway's pipeline")]
    rooms = " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "ra_gateway").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    named = re.findall(r"`(.+?)`", rooms)
    assert sorted(named) == sorted(there - {"__init__.py", "__main__.py"})


def test_the_picture_of_layers_is_the_contract() -> None:
    """docs/architecture.md draws the layers that the linter holds, each with all that stands in it."""
    text = (ROOT / "docs/architecture.md").read_text()
    section = text[text.index("## Layers") : text.index("## Rooms")]
    rows = re.findall(r"^ {4,}(\w+(?: \| \w+)*)(?:  .*)?$", section, re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = contracts["contracts"][0]["layers"]
    assert [set(row.split(" | ")) for row in rows] == [
        set(layer.split(" | ")) for layer in layers if layer != "__main__"
    ]


def test_the_table_of_events_has_every_fact() -> None:
    """docs/architecture.md says of each fact who tells it."""
    text = (ROOT / "docs/architecture.md").read_text()
    section = text[text.index("## Events") : text.index("## The bundled CA")]
    named = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    assert sorted(named) == sorted(fact.__name__ for fact in get_args(Fact))


def test_actions_are_pinned() -> None:
    """Workflows use each action at a commit, which nobody can move."""
    workflows = [path.read_text() for path in ROOT.glob(".github/workflows/*")]
    used = re.findall(r"^[ -]*uses: *(\S+)", "\n".join(workflows), re.MULTILINE)
    assert [action for action in used if not re.search(r"@[0-9a-f]{40}$", action)] == []
    assert used


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


def printed_commands() -> Iterator[tuple[str, str, bool]]:
    """Yield file, command line, and whether it is to be run as it is, of all in documents, examples and messages."""
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *(path for path in ROOT.glob("deploy/**/*") if path.is_file()),
        *ROOT.glob("config/*.toml"),
        *ROOT.glob("ra_gateway/**/*.py"),
    ):
        text = path.read_text().replace("\\\n", " ")
        for found in re.findall(r"`([^`\n]*\bra-gateway [a-z-]+[^`\n]*)`", text):
            yield path.name, found, False
        if path.suffix not in (".py", ".yaml", ".json"):  # there, indented lines are no commands
            for found in re.findall(
                r"^(?:    |Exec\w+=)(.*\bra-gateway [a-z].*)$", text, re.MULTILINE
            ):
                yield path.name, found, True


def faults(line: str, *, whole: bool) -> list[str]:
    """Return what the parser says of the commands of ours in a line of a shell."""
    found = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("&|;()<>"):
            words.append([])
        else:
            words[-1].append(word)
    for command in words:
        at = next((n for n, word in enumerate(command) if Path(word).name == "ra-gateway"), None)
        if at is None or command[0] in ("systemctl", "journalctl"):
            continue
        name, rest = "ra-gateway", command[at + 1 :]
        while rest and f"{name} {rest[0]}" in GROUPS:
            name = f"{name} {rest.pop(0)}"
        if not rest and name in GROUPS:
            continue  # "`ra-gateway ca`", all of them
        if rest and f"{name} {rest[0]}" in COMMANDS:
            name = f"{name} {rest.pop(0)}"
        if name not in COMMANDS or name == "ra-gateway":
            found += (
                [] if rest and rest[0].startswith(("-", "COMMAND")) else [f"{line}: no command"]
            )
            continue
        context = COMMANDS[name].context_class(COMMANDS[name], info_name=name)
        try:
            given, extra, _ = COMMANDS[name].make_parser(context).parse_args(list(rest))
        except Exception as error:  # typer has a copy of click, whose errors have no public name
            found.append(f"{line}: {error}")
            continue
        if extra:
            found.append(f"{line}: unexpected {extra}")
        missing = {item.name for item in COMMANDS[name].params if item.required} - {
            key for key, value in given.items() if value is not None
        }
        if whole and missing and "--help" not in rest:
            found.append(f"{line}: without {sorted(missing)}")
    return found


def test_commands_that_are_printed_can_be_run() -> None:
    """What documents, examples, units and messages say to run has the arguments and options that it takes."""
    lines = list(printed_commands())
    assert [
        f"{file}: {fault}" for file, line, whole in lines for fault in faults(line, whole=whole)
    ] == []
    assert len(lines) > 150
    assert faults("ra-gateway check-config FILE OTHER", whole=False)
    assert faults("ra-gateway serve --colour red", whole=False)
    assert faults("x && ra-gateway init", whole=True)
