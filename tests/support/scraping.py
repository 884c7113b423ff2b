"""The metrics of a gateway or a CA in the tests' process, as they are at the moment."""

from __future__ import annotations

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from ra_gateway.app.application import Application
from ra_gateway.app.ca_service import CAService
from ra_gateway.metrics import Metrics
from tests.support.reloading import CASite, Site


async def scraped(site: Site | CASite, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of one metric by the values of its labels, which are sorted by name."""
    service: Application | CAService = site.application if isinstance(site, Site) else site.service
    # Without the text that is kept, and asked for anew.
    metrics: Metrics = service._metrics
    metrics._texts.clear()
    for survey in metrics._surveys:
        survey._due_at = 0.0
    async with aiohttp.ClientSession() as session:
        text = await (await session.get(f"{service.management.url}/metrics")).text()
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }
