"""An inventory somewhere else, asked for each device over HTTP by a signed question (Standard Webhooks).

Not in `stores`, as the others are: it asks by the HTTP client of the upstreams, and adapters do not know each other.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ra_gateway.app.webhooks import signed_headers, webhook_secret
from ra_gateway.config.service_tables import InventoryHTTPConfig
from ra_gateway.errors import ServiceFailure, StoreUnavailable
from ra_gateway.ra.ports import InventoryEntry
from ra_gateway.stores.inventory import uncertifiable
from ra_gateway.upstream.rest import RestClient

_SETTING: Final = "inventory.http"
_SECRET: Final = f"{_SETTING}.secret_path"


class _Listed(BaseModel):
    """What is answered of a device that is listed: all of it, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    listed: bool
    subject: str = Field(max_length=4096)
    san: list[str] = Field(max_length=64)
    enabled: bool


class WebhookInventory:
    """Asks for each device, and remembers for some seconds what was said; whoever does not answer admits nobody.

    Args:
        clock: Aware UTC, for the time in the question.
        monotonic: Seconds.

    Raises:
        ConfigError: The secret or a file for TLS cannot be used.
    """

    def __init__(
        self,
        config: InventoryHTTPConfig,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._config, self._clock, self._monotonic = config, clock, monotonic
        self._key = webhook_secret(config.secret_path, _SECRET)
        self._client = RestClient(config.url, config.connections(_SETTING, config.url))
        self._known: OrderedDict[tuple[str, str], tuple[float, InventoryEntry | None]]
        self._known = OrderedDict()

    async def find(self, domain: str, identity: str) -> InventoryEntry | None:
        """Return the entry of a device, or None if it is not listed.

        Raises:
            StoreUnavailable: Nobody can say: no answer in time, or one that is none.
        """
        key = domain, identity  # as it is asked for: whoever answers may tell spellings apart
        until, entry = self._known.get(key, (0.0, None))
        now = self._monotonic()
        if now < until:
            return entry
        try:
            entry = await self._ask(domain, identity)
        except ServiceFailure as error:
            self._known.pop(key, None)
            raise StoreUnavailable(
                f"the inventory at {self._config.url}: {error.detail}"
            ) from error
        if self._config.cache_seconds:
            self._known[key] = now + self._config.cache_seconds, entry
            self._known.move_to_end(key)
            if len(self._known) > self._config.cache_max_devices:
                self._known.popitem(last=False)
        return entry

    async def look(self) -> None:
        """Check that somebody is at the URL.

        Raises:
            ServiceFailure: Nobody is.
        """
        await self._client.look()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, domain: str, identity: str) -> InventoryEntry | None:
        question = {"domain": domain, "identity": identity}
        at = int(self._clock().timestamp())
        answer = await self._client.post(
            "",
            question,
            headers=signed_headers(self._key, json.dumps(question).encode(), at),
            deadline_seconds=self._config.deadline_seconds,
        )
        if answer.status != 200:
            # 404 too: it may be the server's word for a path that is none.
            raise StoreUnavailable(f"HTTP {answer.status}")
        return entry_of(answer.document)


def entry_of(document: Mapping[str, object]) -> InventoryEntry | None:
    """Return what an answer says of a device; None if it is not listed.

    Raises:
        StoreUnavailable: It is no such answer, or has names that can be in no certificate.
    """
    if len(document) == 1 and document.get("listed") is False:
        return None
    try:
        said = _Listed.model_validate(document)
        if not said.listed:
            raise StoreUnavailable(
                "the answer says of a device that is not listed how it is listed"
            )
    except ValidationError as error:
        wrong = sorted(
            {str(item["loc"][0]) for item in error.errors()} & _Listed.model_fields.keys()
        )
        where = f"; look at {', '.join(wrong)}" if wrong else ""
        raise StoreUnavailable(
            f"the answer is neither listed = false nor listed = true, subject, san and enabled{where}"
        ) from None
    entry = InventoryEntry(said.subject, tuple(said.san), said.enabled)
    if (what := uncertifiable(entry)) is not None:
        raise StoreUnavailable(what)
    return entry
