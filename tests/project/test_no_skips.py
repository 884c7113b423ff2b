"""The rule that a skip is a failure when CI=true, tried on a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE_SECONDS

REPOSITORY = Path(__file__).parents[2]

SKIPPING_TEST = """
import pytest

def test_passes():
    pass

def test_skips_itself():
    pytest.skip("no reason")

@pytest.mark.skip(reason="no reason")
def test_marked():
    pass

@pytest.mark.xfail(reason="known")
def test_expected_to_fail():
    assert False
"""
SKIPPING_MODULE = 'import pytest\npytest.importorskip("no_such_module_anywhere")\n'


def _run_pytest(directory: Path, *, ci: bool) -> dict[str, int]:
    """Run pytest on two files full of skips; return the counts of its closing line."""
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_some.py").write_text(SKIPPING_TEST)
    (directory / "test_module.py").write_text(SKIPPING_MODULE)
    environment = {k: v for k, v in os.environ.items() if k != "CI" and "PYTEST" not in k}
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "tests.support.no_skips",
                "-p",
                "no:cacheprovider",
            ),
            *("--continue-on-collection-errors", "--color=no", "-q", str(directory)),
        ],
        cwd=REPOSITORY,
        env={**environment, "PYTHONPATH": str(REPOSITORY)} | ({"CI": "true"} if ci else {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    closing = done.stdout.splitlines()[-1].split(" in ")[0]
    counts = {
        word.rstrip("s"): int(n) for n, word in (part.split() for part in closing.split(", "))
    }
    return {**counts, "returncode": done.returncode}


def test_with_ci_every_skip_is_a_failure(tmp_path: Path) -> None:
    """Skipped tests and modules are failures or errors; the expected failure stays one."""
    assert _run_pytest(tmp_path, ci=True) == {
        "passed": 1,
        "failed": 1,  # by pytest.skip in the test
        "error": 2,  # by a mark, before the test; and by importorskip, while collecting
        "xfailed": 1,
        "returncode": 1,
    }


def test_without_ci_a_skip_is_a_skip(tmp_path: Path) -> None:
    """A developer may skip."""
    assert _run_pytest(tmp_path, ci=False) == {
        "passed": 1,
        "skipped": 3,
        "xfailed": 1,
        "returncode": 0,
    }


def test_the_hooks_are_in_force_here(pytestconfig: pytest.Config) -> None:
    """The hooks tried above are the ones of this run."""
    hooks = [
        *pytestconfig.pluginmanager.hook.pytest_runtest_makereport.get_hookimpls(),
        *pytestconfig.pluginmanager.hook.pytest_make_collect_report.get_hookimpls(),
    ]
    ours = [h for h in hooks if h.function.__module__ == "tests.support.no_skips"]
    assert len(ours) == 2
