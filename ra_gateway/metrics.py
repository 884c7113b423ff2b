"""Metrics for Prometheus, one registry for each process; labels have few values, whatever devices send."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import choose_encoder

from ra_gateway.cmp.codes import BodyType
from ra_gateway.events import Fact, RequestHandled

_SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

_BODY_TYPES: Final = frozenset(item.name for item in BodyType)


class Metrics:
    """Counts facts (`ra_gateway.events.EventSink`)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._messages = Counter(
            "ra_gateway_messages",
            "CMP messages that were answered.",
            ("by", "endpoint", "domain", "type", "outcome", "fail_info", "rule"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ra_gateway_message_duration_seconds",
            "From the first octet decoded to the answer ready, the CA's time included.",
            ("by", "type"),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def __call__(self, event: Fact) -> None:
        """Count one fact."""
        match event:
            case RequestHandled():
                body_type = event.body_type if event.body_type in _BODY_TYPES else "unreadable"
                fail_info = "" if event.fail_info is None else event.fail_info.name or ""
                self._messages.labels(
                    event.by, event.endpoint, event.domain, body_type, event.outcome,
                    fail_info, event.rule,
                ).inc()  # fmt: skip
                self._seconds.labels(event.by, body_type).observe(event.duration_ms / 1000.0)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an Accept header asks for, and its Content-Type."""
        if not accept:
            return generate_latest(self.registry), "text/plain; version=0.0.4; charset=utf-8"
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
