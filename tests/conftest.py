"""Fixtures that every test may use, and the rules that hold for all of them."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings

from ra_gateway.metrics import collecting
from tests.support.commandline import remember_program
from tests.support.linting import remember_findings
from tests.support.pki import OperatorPKI, VendorPKI, make_operator_pki, make_vendor_pki

pytest_plugins = [
    "tests.support.fixtures_postgres",
    "tests.support.fixtures_redis",
    "tests.support.linted",
    "tests.support.no_skips",
    "tests.support.slapd",
    "tests.support.softhsm",
]

# No deadline: on a busy machine it says nothing about the example. The same examples on every run,
# so that what fails for one fails for all; HYPOTHESIS_PROFILE=explore looks further.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

remember_program()
remember_findings()

STAGES = ("project", "unit", "contract", "conformance", "property", "integration")
"""Folders in the order in which they run: what fails fast and says most comes first."""

REQUIREMENTS = frozenset((*range(1, 161), *(f"T{number}" for number in range(1, 55))))
"""What a `requirement` marker may name: 26 for R26, "T8" for T8."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have the garbage collector pass over what is there before the first test: it stays, and is much."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the tests by `STAGES`, and refuse `requirement` markers outside R1..R160 and T1..T54.

    Raises:
        pytest.UsageError: A marker names something else.
    """
    items.sort(key=_stage)
    for item in items:
        for marker in item.iter_markers("requirement"):
            for name in marker.args:
                if name not in REQUIREMENTS:
                    known = '1..160, "T1".."T54"'
                    raise pytest.UsageError(f"{item.nodeid}: no requirement {name!r} ({known})")


def _stage(item: pytest.Item) -> int:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return STAGES.index(folder) if folder in STAGES else len(STAGES)


@pytest.fixture(autouse=True)
def _loggers_begin_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one test configures is not the next one's: a logger that is kept would outlive it."""
    configure = structlog.configure
    monkeypatch.setattr(
        structlog,
        "configure",
        lambda **options: configure(**{**options, "cache_logger_on_first_use": False}),
    )
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _metrics_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test has just caused is in the next text."""
    monkeypatch.setattr(collecting, "REST_FACTOR", 0.0)


@pytest.fixture(scope="session")
def vendor_pki() -> VendorPKI:
    """The vendor whose base stations are welcome: ACME Radio, ECDSA P-256."""
    return make_vendor_pki("ACME Radio")


@pytest.fixture(scope="session")
def foreign_vendor_pki() -> VendorPKI:
    """A vendor nobody here has heard of."""
    return make_vendor_pki("Foreign Radio")


@pytest.fixture(scope="session")
def operator_pki() -> OperatorPKI:
    """The operator: root, issuing CA, the RA's and the CA's CMP credentials, ECDSA P-256."""
    return make_operator_pki("Example Operator")
