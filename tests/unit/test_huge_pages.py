"""The heap on huge pages, where the kernel has them."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.app import huge_pages
from ra_gateway.app.huge_pages import HUGE_PAGE_OCTETS, use_huge_pages


def _advised() -> int:
    """Return how many areas of this process may have huge pages."""
    flags = re.findall(r"^VmFlags:(.*)$", Path("/proc/self/smaps").read_text(), re.MULTILINE)
    return sum("hg" in line.split() for line in flags)


def test_the_heap_may_have_huge_pages() -> None:
    """Whole pages of it, as a kernel shows that knows of them; once more changes nothing."""
    kept = bytearray(4 * HUGE_PAGE_OCTETS)
    octets = use_huge_pages()
    assert octets % HUGE_PAGE_OCTETS == 0
    known = Path("/sys/kernel/mm/transparent_hugepage").is_dir()
    assert (_advised() > 0) is (octets > 0) is known
    use_huge_pages()
    assert kept == bytearray(4 * HUGE_PAGE_OCTETS)


def test_a_kernel_that_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a system where there is nothing to be asked."""

    class _Refusing:
        @staticmethod
        def madvise(*_: Any) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: _Refusing)
    assert use_huge_pages() == 0
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert use_huge_pages() == 0
    monkeypatch.setattr(huge_pages, "Path", lambda _: Path("/nonexistent"))
    assert use_huge_pages() == 0
