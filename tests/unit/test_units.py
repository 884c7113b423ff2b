"""The units for systemd: systemd itself takes them as they are, and knows no better way to shut them in."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
UNITS: Final = {
    "ra-gateway.service": "ra-gateway.service",
    "ra-gateway@.service": "ra-gateway@8081.service",
    "ra-gateway-ca.service": "ra-gateway-ca.service",
}
"""File to the name that it runs under."""

_PROGRAM: Final = "/opt/ra_gateway/bin/ra-gateway"


def analyze(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `systemd-analyze` where units stand in a directory, beside systemd's own."""
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is missing: `apt-get install systemd`, or `make systemd`"
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{directory}:", "PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with a program that this machine has."""
    for name in UNITS:
        text = (DEPLOY / name).read_text()
        assert _PROGRAM in text
        (tmp_path / name).write_text(text.replace(_PROGRAM, "/bin/true"))
    return tmp_path


def test_every_unit_is_looked_at() -> None:
    """Of those in deploy/."""
    assert {path.name for path in DEPLOY.glob("*.service")} == set(UNITS)


def test_systemd_takes_them(installed: Path) -> None:
    """No key it does not know, no value it cannot read; a typo is one."""
    paths = [str(installed / name) for name in UNITS.values()]
    # An instance is looked up by the name of its template.
    (installed / "ra-gateway@8081.service").symlink_to("ra-gateway@.service")
    done = analyze(installed, "verify", "--man=no", *paths)
    said = [line for line in done.stderr.splitlines() if "ra-gateway" in line]
    assert (done.returncode, said) == (0, []), done.stderr
    unit = installed / "ra-gateway.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=30", "WatchdogSec=soon"))
    assert "soon" in analyze(installed, "verify", "--man=no", str(unit)).stderr


@pytest.mark.parametrize("name", UNITS)
def test_they_are_shut_in(installed: Path, name: str) -> None:
    """By systemd's own measure: "OK" is below 2."""
    done = analyze(
        installed, "security", "--offline=true", "--threshold=20", "--no-pager",
        str(installed / name),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_units_differ_in_what_they_run_alone() -> None:
    """One is hardened like the other, and ends and reloads like it."""

    def settings(name: str) -> set[str]:
        own = r"#|Description|Exec(Start|StartPre)=|User|Group|(State|Logs)Directory="
        lines = (DEPLOY / name).read_text().splitlines()
        return {line for line in lines if not re.match(own, line)}

    assert settings("ra-gateway@.service") == settings("ra-gateway.service")
    assert settings("ra-gateway-ca.service") == settings("ra-gateway.service")


def test_the_port_of_an_instance_is_its_name() -> None:
    """In what is checked before the start, too."""
    text = (DEPLOY / "ra-gateway@.service").read_text()
    assert re.findall(r"(?m)^Exec.* (?:--port |server\.listen_port=)(%i) ", text) == ["%i", "%i"]
