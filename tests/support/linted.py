"""The rule that the linter finds no error in a certificate or CRL that is made in a test: a plugin for pytest."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import linting

linting.watch()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the option of `make lint-each`."""
    parser.addoption(
        "--lint-each",
        action="store_true",
        help="Lint every certificate and CRL, not one of a shape.",
    )


@pytest.fixture(scope="session", autouse=True)
def _all_is_linted(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[None]:
    """What is made after the last test, by what several tests share, is linted as well."""
    directory = tmp_path_factory.getbasetemp()
    linting.share(
        directory.parent if "PYTEST_XDIST_WORKER" in os.environ else directory,
        each=pytestconfig.getoption("--lint-each"),
    )
    yield
    linting.require_linted()


@pytest.fixture(autouse=True)
def _what_is_made_is_linted(_all_is_linted: None) -> Iterator[None]:
    """What is made in a test, or for it, is linted at its end."""
    yield
    linting.require_linted()
