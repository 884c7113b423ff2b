"""The Dockerfile: what is installed is locked, and what is left runs without root and tells of its health."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
STEPS: Final = [
    line
    for line in (ROOT / "deploy/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    if re.match("[A-Z]+ ", line)
]


def test_the_image_is_without_root_and_tools() -> None:
    """The last stage copies one directory of the first, has its own user, and asks /readyz without another program."""
    starts = [number for number, step in enumerate(STEPS) if step.startswith("FROM ")]
    assert len(starts) == 2
    last = STEPS[starts[-1] :]
    assert [step for step in last if step.startswith("COPY ")] == [
        "COPY --from=build /opt/ra_gateway /opt/ra_gateway"
    ]
    assert "USER 10001:10001" in last
    assert not [step for step in last if re.search(r"apt-get|curl|wget|pip ", step)]
    (health,) = (step for step in last if step.startswith("HEALTHCHECK "))
    assert '["python", "-I", "-c"' in health
    assert any("READY_URL=http://127.0.0.1:9080/readyz" in step for step in last)


def test_what_is_installed_is_locked() -> None:
    """Each installation has hashes, or is our own wheel."""
    installed = [item for step in STEPS for item in re.findall(r"pip .*?install ([^&]*)", step)]
    assert len(installed) == 3
    assert [
        item for item in installed if "--require-hashes --only-binary :all: -r" not in item
    ] == ["--no-deps /dist/*.whl"]


def test_what_the_build_sees_is_listed() -> None:
    """Nothing of the machine that builds it, a site's secrets least of all."""
    first, *lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*"
    assert "deploy/compose/site" in lines[lines.index("!deploy") :]
