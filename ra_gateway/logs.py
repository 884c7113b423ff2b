"""Log lines: one per message, as JSON or for a terminal; nothing secret has a way into them."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, Literal, TextIO, cast

import structlog

from ra_gateway.ra.events import MessageHandled

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_FIELDS: Final = (
    "endpoint",
    "peer",
    "domain",
    "signer",
    "signer_fingerprint",
    "upstream",
    "subject",
    "serial_number",
    "rule",
    "detail",
)


class _StandardError:
    """Standard error as it is when a line is written: loggers outlive what replaced it for a while."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(format_: Literal["json", "console"], level: str) -> None:
    """Set up logging to standard error for the whole process."""
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if format_ == "json":
        processors.append(structlog.processors.JSONRenderer())
    else:
        # Plain tracebacks: the usual ones of a terminal show local variables, which may be keys.
        processors[-1:] = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _StandardError())),
        cache_logger_on_first_use=True,
    )


class LogSink:
    """Writes one line per handled message (`ra_gateway.ra.events.EventSink`)."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()

    def __call__(self, event: MessageHandled) -> None:
        """Write the line: info for what went well, warning for a refusal, error for our own failure."""
        fields = {name: value for name in _FIELDS if (value := getattr(event, name))}
        if event.fail_info is not None:
            fields["fail_info"] = event.fail_info.name
        if event.quirks:
            fields["quirks"] = list(event.quirks)
        write = self._log.info
        if event.bug is not None:
            write, fields["exc_info"] = self._log.error, event.bug
        elif event.outcome == "failed":
            write = self._log.error
        elif event.outcome in ("refused", "rejected", "unconfirmed"):
            write = self._log.warning
        write(
            event.body_type or "unreadable",
            transaction_id=event.transaction_id,
            outcome=event.outcome,
            duration_ms=round(event.duration_ms, 2),
            **fields,
        )
