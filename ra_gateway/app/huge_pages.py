"""Memory on pages of 2 MiB, where Linux allows it (`madvise` or `always` in transparent_hugepage/enabled).

A message touches a little of everything that was loaded. On pages of 4 KiB, every few of these touches is first a walk
through page tables, and in a virtual machine through two sets of them.
"""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

HUGE_PAGE_OCTETS: Final = 2 * 1024 * 1024

_MADV_HUGEPAGE: Final = 14
_MADV_COLLAPSE: Final = (
    25  # from Linux 6.1 on; without it the kernel gets round to it by itself, in minutes
)

_HEAP: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0 *(?:\[heap\])?")
"""Of /proc/self/maps: memory that is no file's."""


def use_huge_pages() -> int:
    """Move the heap, as it is now, to huge pages; returns how many octets of it may have them.

    Nothing changes where the kernel has none, or refuses: it is only faster.
    """
    octets = 0
    with suppress(OSError, AttributeError):
        advise = ctypes.CDLL(None, use_errno=True).madvise
        advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        for line in Path("/proc/self/maps").read_text().splitlines():
            found = _HEAP.fullmatch(line)
            start, end = (int(text, 16) for text in found.groups()) if found else (0, 0)
            start = -(-start // HUGE_PAGE_OCTETS) * HUGE_PAGE_OCTETS
            size = end // HUGE_PAGE_OCTETS * HUGE_PAGE_OCTETS - start
            if size > 0 and not advise(start, size, _MADV_HUGEPAGE):
                advise(start, size, _MADV_COLLAPSE)
                octets += size
    return octets
