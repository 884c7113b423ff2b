"""Every command that documents and help print is run by a test, or stands on the list of those that cannot be."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from ra_gateway import __version__
from tests.support.printed import (
    HELP,
    NOT_HERE,
    PAGES,
    ROOT,
    Printed,
    blocks,
    first_program,
    is_shell,
    on_page,
    runs_here,
)

EVERYWHERE: Final = ""
"""Stands for all sections of a page that are not named."""

RUN_BY: Final[dict[str, dict[str, str]]] = {
    HELP: {
        EVERYWHERE: "integration/test_printed_cli.py::test_at_a_site",
        "serve": "integration/test_printed_cli.py::test_what_serves",
        "enroll": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "replay": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "samples": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "renew": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "simulate": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "show": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "approve": "integration/test_approvals_cli.py::test_what_is_printed",
        "deny": "integration/test_approvals_cli.py::test_what_is_printed",
    },
    "README.md": {EVERYWHERE: "integration/test_printed_demo.py::test_a_base_station_of_the_readme"},
    "deploy/README.md": {
        EVERYWHERE: "integration/test_printed_pages.py::test_the_units",
        "Prometheus and Grafana": "integration/test_printed_pages.py::test_prometheus",
    },
    "docs/audit.md": {EVERYWHERE: "integration/test_audit_cli.py::test_what_the_page_says"},
    "docs/ca.md": {
        "From nothing to a first certificate": "integration/test_ca_page.py::test_a_base_station_gets_its_names",
        "Requests that are brought by hand": "integration/test_ca_page.py::test_requests_that_are_brought_by_hand",
        "Profiles": "integration/test_ca_page.py::test_what_the_ca_serves_and_keeps",
        "CRLs and OCSP": "integration/test_ca_page.py::test_what_the_ca_serves_and_keeps",
        "The ledger": "integration/test_ca_page.py::test_what_the_ca_serves_and_keeps",
    },
    "docs/ca-openssl-mock.md": {EVERYWHERE: "integration/test_printed_pages.py::test_the_mock_server"},
    "docs/ca-trustpoint.md": {
        EVERYWHERE: "integration/test_printed_pages.py::test_secrets_are_for_their_owner"
    },
    "docs/cli.md": {
        EVERYWHERE: "integration/test_printed_cli.py::test_at_a_site",
        "The configuration": "integration/test_printed_cli.py::test_what_serves",
        "`ra-gateway enroll`": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "`ra-gateway renew`": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "`ra-gateway replay FILES`": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
        "`ra-gateway show FILES`": "integration/test_printed_demo.py::test_a_base_station_of_the_command_line",
    },
    "docs/cli-reference.md": {  # its examples are those of help
        EVERYWHERE: "project/test_docs.py::test_the_manual_and_the_completion_are_up_to_date"
    },
    "docs/client-occm.md": {EVERYWHERE: "integration/test_client_occm.py::test_what_the_page_says_can_be_done"},
    "docs/client-onap.md": {EVERYWHERE: "integration/test_client_onap.py::test_it_enrols_and_renews"},
    "docs/client-openssl.md": {
        EVERYWHERE: "integration/test_client_openssl.py::test_what_both_versions_do",
        "What only 3.5 has": "integration/test_client_openssl.py::test_what_the_newer_one_does",
    },
    "docs/containers.md": {
        "With compose": "integration/test_compose_site.py::test_the_site_of_compose_enrols_a_base_station",
    },
    "docs/doctor.md": {EVERYWHERE: "integration/test_printed_pages.py::test_the_doctor"},
    "docs/hsm.md": {EVERYWHERE: "integration/test_printed_pages.py::test_a_token_of_softhsm"},
    "docs/log-fields.md": {EVERYWHERE: "integration/test_printed_cli.py::test_at_a_site"},
    "docs/metrics.md": {EVERYWHERE: "integration/test_printed_demo.py::test_metrics"},
    "docs/operations.md": {EVERYWHERE: "integration/test_approvals_cli.py::test_what_is_printed"},
    "docs/registering.md": {
        EVERYWHERE: "integration/test_registering.py::test_the_end_entities_of_the_page",
        "A service that is asked": "integration/test_printed_pages.py::test_secrets_are_for_their_owner",
    },
    "docs/runbook.md": {EVERYWHERE: "integration/test_runbook.py::test_no_section_with_commands_is_left_out"},
    "docs/alerts.md": {EVERYWHERE: "integration/test_runbook.py::test_no_section_with_commands_is_left_out"},
    "docs/simulating.md": {EVERYWHERE: "integration/test_printed_demo.py::test_a_fleet"},
    "docs/tutorial.md": {EVERYWHERE: "integration/test_tutorial.py::test_the_tutorial"},
}  # fmt: skip
"""Which test runs the commands of a page, or of one of its sections; it takes their text from the page."""


def run_by(command: Printed) -> str:
    """Return the test that runs a command, "" if none does."""
    sections = RUN_BY.get(command.page, {})
    return sections.get(command.section, sections.get(EVERYWHERE, ""))


ALL: Final = [
    command
    for page in (*(str(path.relative_to(ROOT)) for path in PAGES), HELP)
    for command in on_page(page)
]


def test_every_command_is_run() -> None:
    """By a test of its page or section, or it is one of those that cannot be run here."""
    left = [f"{item.page}: {item.text}" for item in ALL if runs_here(item) and not run_by(item)]
    assert left == []
    assert len(ALL) > 200


def test_the_tests_exist_and_know_their_pages() -> None:
    """A test that went, or turned to another page, is missed."""
    wrong = []
    for page, sections in RUN_BY.items():
        for place in sections.values():
            file, _, name = place.partition("::")
            text = (ROOT / "tests" / file).read_text()
            known = "HELP" if page == HELP else Path(page).name
            if f"def {name}(" not in text or known not in text:
                wrong.append(f"{page}: {place}")
    assert wrong == []


def test_nothing_is_listed_in_vain() -> None:
    """Each page and section of the list has commands that are run, and each reason has commands that it is for."""
    run = {(item.page, item.section) for item in ALL if runs_here(item)}
    pages = {page for page, _ in run}
    idle = [
        (page, section)
        for page, sections in RUN_BY.items()
        for section in sections
        if ((page, section) not in run if section else page not in pages)
    ]
    assert idle == []
    reasons = [text for text in NOT_HERE if not any(re.match(text, item.text) for item in ALL)]
    assert reasons == []


def test_blocks_of_commands_are_known_as_such() -> None:
    """A block that begins with a program that is on this machine is one of commands."""
    unknown = [
        f"{page.name}: {lines[0].strip()}"
        for page in PAGES
        for _, lines in blocks(page)
        if not is_shell(lines)
        and shutil.which(name := first_program(lines[0].strip()))
        and name not in ("node",)  # in a picture of docs/architecture.md
    ]
    assert unknown == []


@pytest.mark.parametrize("command", [item for item in ALL if not runs_here(item)], ids=str)
def test_what_cannot_be_run_names_what_there_is(command: Printed) -> None:
    """Its files in the tree, and the wheel by its version."""
    wheels = re.findall(r"ra_gateway-([\d.]+)-", command.text)
    assert wheels in ([], [__version__])
    named = re.findall(r"\b(?:deploy|docs|tests)/[\w/.-]+|\brequirements[\w-]*\.lock", command.text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_all_generators_are_listed() -> None:
    """CONTRIBUTING.md has a command for each program in docs/ that writes a page, or something else."""
    there = {path.name for path in ROOT.glob("docs/*.py")} - {"build_site.py"}
    page = [item.text for item in ALL if item.page == "CONTRIBUTING.md"]
    assert {name for text in page for name in re.findall(r"docs/(\w+\.py)", text)} == there
