"""What systemd is told of a service that it runs (sd_notify(3)); nothing where it runs by itself."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_MICROSECONDS: Final = 1_000_000


def notify(**state: str | int) -> None:
    """Tell systemd, if it wants to be told: READY=1, STATUS="..." and so on.

    Whoever listens may be gone: that is no reason to fail.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    text = "\n".join(f"{name}={value}" for name, value in state.items())
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        sender.send(text.encode())


def notify_reloading() -> None:
    """Tell that a reload begins; READY=1 tells that it has ended."""
    notify(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)


def watchdog_seconds() -> float | None:
    """Return how often systemd wants a sign of life, halved to be in time; None for never."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdecimal() or not int(text) or (pid and pid != str(os.getpid())):
        return None
    return int(text) / _MICROSECONDS / 2


async def keep_alive(is_alive: Callable[[], bool]) -> None:
    """Give signs of life from the event loop, until cancelled: where it hangs, there are none.

    Args:
        is_alive: Whether one may be given now.
    """
    seconds = watchdog_seconds()
    while True:
        if seconds is None:
            await asyncio.Event().wait()
        else:
            if is_alive():
                notify(WATCHDOG=1)
            await asyncio.sleep(seconds)
