"""What log lines show, and what they do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
import structlog

from ra_gateway import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.requirement(159)
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables(
    form: Literal["json", "console"], capfd: pytest.CaptureFixture[str]
) -> None:
    """A bug is told with the lines it went through, but not with the secrets that were at hand there."""

    def fail(secret: bytes) -> None:
        raise RuntimeError(f"a bug with {len(secret)} octets")

    logs.configure(form, "info")
    try:
        fail(bytes.fromhex("736563726574"))
    except RuntimeError:
        structlog.get_logger().exception("failed")
    shown = capfd.readouterr().err
    assert "a bug with 6 octets" in shown
    assert "in fail" in shown
    assert "b'secret'" not in shown
