"""What is counted, how it is exposed, and what bounds it."""

from __future__ import annotations

import asyncio
import itertools
import runpy
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from ra_gateway.app.readings import source_label
from ra_gateway.durations import BOUNDS_SECONDS, Durations
from ra_gateway.errors import PKIFailureInfo, StoreUnavailable
from ra_gateway.events import (
    AnswerLost,
    CertificateConfirmed,
    CertificateIssued,
    CertificatesWithdrawn,
    Component,
    ConfigurationReloaded,
    CredentialChanged,
    CRLPublished,
    Fact,
    HTTPRefused,
    InventoryChanged,
    InventoryRefused,
    MessageForwarded,
    Outcome,
    PersonActed,
    ReloadRefused,
    RequestHandled,
    ServiceStarted,
    Stage,
    StoreFound,
    StoreLost,
    TransactionChanged,
    TrustChanged,
    UpstreamDown,
    UpstreamFailed,
    UpstreamUp,
)
from ra_gateway.metrics import Metrics, collecting, families
from ra_gateway.metrics.collecting import MAX_SERIES, OTHER, Survey
from ra_gateway.metrics.families import FAMILIES, LABELS, Kind, Reading

ROOT = Path(__file__).resolve().parents[2]
GATEWAY, CA = Component.gateway, Component.ca
MOMENT = datetime(2026, 11, 30, tzinfo=UTC)


def handled(endpoint: str = "ran", domain: str = "acme", body_type: str = "ir") -> RequestHandled:
    """A message that was refused."""
    return RequestHandled(
        GATEWAY,
        endpoint,
        "192.0.2.1",
        body_type,
        Outcome.refused,
        "0f",
        20.0,
        domain=domain,
        fail_info=PKIFailureInfo.badPOP,
        rule="R17",
        stages=((Stage.decode, 0.001), (Stage.respond, 0.019)),
    )


FACTS: tuple[Fact, ...] = (
    handled(),
    TransactionChanged("0f", "ejbca", "issued"),
    CertificateIssued(GATEWAY, "0f", b"", "ejbca"),
    CertificateConfirmed(GATEWAY, "0f", b"", "ejbca"),
    CertificatesWithdrawn(CA, (b"", b"")),
    AnswerLost("ejbca", "ran", "acme", "0f", "0f", "CN=x", "ab", datetime.now(UTC), "gone"),
    UpstreamFailed("ejbca", "0f", PKIFailureInfo.systemUnavail, "R91", "away"),
    UpstreamDown("ejbca", "away"),
    StoreLost(GATEWAY, "away"),
    CRLPublished("ab", 7, None, MOMENT, 700),
    CredentialChanged("CN=RA", "1f", MOMENT),
    InventoryChanged(2, 1, 0, 0),
    InventoryRefused(("no",), 2),
    ConfigurationReloaded(GATEWAY, "ab"),
    ReloadRefused(GATEWAY, ("no",)),
)


def samples(metrics: Metrics) -> list[Sample]:
    """What is scraped."""
    text = metrics.exposition("")[0].decode()
    return [sample for item in text_string_to_metric_families(text) for sample in item.samples]


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of one metric by the values of its labels, which are sorted by name."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for sample in samples(metrics)
        if sample.name == name
    }


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: type(fact).__name__)
def test_every_fact_counts(fact: Fact) -> None:
    metrics = Metrics()
    before = {(item.name, *item.labels.values()) for item in samples(metrics)}
    metrics(fact)
    assert {(item.name, *item.labels.values()) for item in samples(metrics)} - before


def test_no_kind_of_fact_is_forgotten() -> None:
    """What is refused below CMP is told a few times only, and what works again is read: those are left out.

    So is what the audit trail alone is told: its records are counted.
    """
    left_out = {HTTPRefused, StoreFound, UpstreamUp}
    left_out |= {MessageForwarded, ServiceStarted, TrustChanged, PersonActed}
    assert {type(fact) for fact in FACTS} == set(get_args(Fact)) - left_out


def test_a_message() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics(handled())
    labels = ("gateway", "acme", "ran", "badPOP", "refused", "R17", "ir")
    assert values(metrics, "ra_gateway_messages_total") == {labels: 3}
    assert values(metrics, "ra_gateway_stage_duration_seconds_count") == {
        ("decode",): 3,
        ("respond",): 3,
    }
    buckets = values(metrics, "ra_gateway_message_duration_seconds_bucket")
    assert (buckets["gateway", "0.01", "ir"], buckets["gateway", "0.02", "ir"]) == (0, 3)
    assert buckets["gateway", "+Inf", "ir"] == 3
    assert values(metrics, "ra_gateway_message_duration_seconds_sum") == {
        ("gateway", "ir"): pytest.approx(0.06)
    }


@pytest.mark.parametrize("bound", BOUNDS_SECONDS)
def test_a_bound_is_within_its_bucket(bound: float) -> None:
    durations = Durations()
    durations.add(bound)
    durations.add(bound * 1.001)
    place = BOUNDS_SECONDS.index(bound)
    assert durations.counts[place : place + 2] == [1, 1]


# --- bounds -----------------------------------------------------------------------------------------------------


def test_a_device_adds_no_value_of_a_label() -> None:
    """What is not a body type of CMP, whatever it says, is unreadable."""
    metrics = Metrics()
    for text in ("", "x" * 40, 'ir"} 1\nevil'):
        metrics(handled(body_type=text))
    (labels,) = values(metrics, "ra_gateway_messages_total")
    assert labels[-1] == "unreadable"


@pytest.mark.parametrize("label", ["endpoint", "domain"])
def test_labels_without_a_bound_would_be_cut(label: str) -> None:
    metrics = Metrics()
    for number in range(MAX_SERIES + 50):
        metrics(handled(**{label: str(number)}))
    counted = values(metrics, "ra_gateway_messages_total")
    assert len(counted) == MAX_SERIES + 1
    assert counted[(OTHER,) * 7] == 50


def test_durations_without_a_bound_would_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "MAX_SERIES", 2)
    metrics = Metrics()
    for body_type in ("ir", "cr", "kur", "p10cr"):
        metrics(handled(body_type=body_type))
    counted = values(metrics, "ra_gateway_message_duration_seconds_count")
    assert counted == {("gateway", "cr"): 1, ("gateway", "ir"): 1, (OTHER, OTHER): 2}


def test_readings_without_a_bound_would_be_left_out() -> None:
    metrics = Metrics()
    metrics.reads(
        lambda: (Reading(families.EXPIRY, ("", "", "", str(n)), n) for n in range(MAX_SERIES + 7))
    )
    assert len(values(metrics, families.EXPIRY.name)) == MAX_SERIES
    assert values(metrics, families.LEFT_OUT.name) == {(): 7}


def names(*endpoints: str) -> dict[str, frozenset[str]]:
    """A configuration with some endpoints."""
    known = {"domain": frozenset({"acme"}), "upstream": frozenset({"ejbca"})}
    return {"endpoint": frozenset(endpoints), **known}


def test_names_that_went_are_forgotten_after_another_reload() -> None:
    """A thousand reloads, each with another name, leave two of them; what stays goes on counting."""
    metrics = Metrics()
    metrics.keep(names("ran", "new0"))
    for number in range(1000):
        metrics(handled(f"new{number}"))
        metrics(handled())
        metrics.keep(names("ran", f"new{number + 1}"))
        metrics(handled(f"new{number}"))  # began before
    counted = values(metrics, "ra_gateway_messages_total")
    assert {labels[2]: value for labels, value in counted.items()} == {"ran": 1000, "new999": 2}


@pytest.mark.parametrize(
    "fact",
    [
        handled("gone"),
        handled(domain="gone"),
        UpstreamFailed("gone", "0f", PKIFailureInfo.systemUnavail, "R91", "away"),
        CertificateIssued(GATEWAY, "0f", b"", "gone"),
    ],
)
def test_every_label_with_a_name_is_forgotten(fact: Fact) -> None:
    metrics = Metrics()
    metrics(fact)
    metrics.keep(names())
    metrics.keep(names())
    assert "gone" not in metrics.exposition("")[0].decode()


# --- readings ---------------------------------------------------------------------------------------------------


def test_a_reader_with_a_bug_hides_nothing_else() -> None:
    metrics = Metrics()

    def broken() -> Iterable[Reading]:
        yield Reading(families.IN_FLIGHT, (), 1)
        raise ValueError("a bug")

    metrics.reads(broken)
    metrics.reads(lambda: (Reading(families.HELD, (), 2),))
    assert values(metrics, families.IN_FLIGHT.name) == {(): 1}
    assert values(metrics, families.HELD.name) == {(): 2}


def test_what_is_read_twice_is_exposed_once() -> None:
    """Prometheus refuses a whole scrape with a value that stands there twice."""
    metrics = Metrics()
    for value in (1, 2):
        metrics.reads(lambda value=value: (Reading(families.HELD, (), value),))  # type: ignore[misc]
    assert [item.value for item in samples(metrics) if item.name == families.HELD.name] == [2]


async def test_what_takes_long_is_told_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "ANSWER_SECONDS", 0.0)
    metrics, answers, asked = Metrics(), asyncio.Event(), 0

    async def ask() -> list[Reading]:
        nonlocal asked
        asked += 1
        await answers.wait()
        return [Reading(families.HELD, (), 5)]

    metrics.asks(Survey(ask, 3600.0))
    for _ in range(3):
        await metrics.refresh()
        assert values(metrics, families.HELD.name) == {}
    answers.set()
    while not values(metrics, families.HELD.name):
        await metrics.refresh()
        await asyncio.sleep(0)
    await metrics.refresh()
    assert values(metrics, families.HELD.name) == {(): 5}
    assert asked == 1
    await metrics.stop()


async def test_what_cannot_be_asked_tells_nothing_old() -> None:
    metrics, works = Metrics(), True

    async def ask() -> list[Reading]:
        if not works:
            raise StoreUnavailable("away")
        return [Reading(families.HELD, (), 5)]

    metrics.asks(Survey(ask, 0.0))
    await metrics.refresh()
    assert values(metrics, families.HELD.name) == {(): 5}
    works = False
    await metrics.refresh()
    assert values(metrics, families.HELD.name) == {}


async def test_asking_ends_with_the_service() -> None:
    metrics = Metrics()

    async def ask() -> list[Reading]:
        await asyncio.Event().wait()
        return []

    metrics.asks(Survey(ask, 0.0))
    task = asyncio.create_task(metrics.refresh())
    await asyncio.sleep(0)
    await metrics.stop()
    await task


@pytest.mark.parametrize(
    "source, shown",
    [
        ("/etc/crls/acme.crl", "/etc/crls/acme.crl"),
        ("http://user:secret@crl.example.net/a.crl?token=secret", "http://crl.example.net/a.crl"),
        ("ldap://crl.example.net/CN=CA?certificateRevocationList", "ldap://crl.example.net/CN=CA"),
    ],
)
def test_sources_are_shown_without_secrets(source: str, shown: str) -> None:
    assert source_label(source, {source}) == shown
    assert source_label(source, set()) == "learned"


# --- what is declared -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_declarations(family: families.Family) -> None:
    assert family.name.startswith("ra_gateway_")
    assert family.name.endswith("_total") == (family.kind is Kind.counter)
    assert family.name.endswith("_duration_seconds") == (family.kind is Kind.histogram)
    assert set(family.labels) <= set(LABELS)
    assert family.meaning.endswith(".")


def test_the_reference_is_up_to_date() -> None:
    generator = runpy.run_path(str(ROOT / "docs/metrics_reference.py"))
    assert (ROOT / "docs/metrics.md").read_text() == generator["reference"](), (
        "run: python docs/metrics_reference.py > docs/metrics.md"
    )


def test_names_are_declared_once() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert set(LABELS) == {label for family in FAMILIES for label in family.labels}


def test_whoever_scrapes_without_end_has_few_texts_written() -> None:
    """Whatever the format asked for: writing one is work that no message is answered meanwhile."""
    metrics, written = Metrics(rest_factor=1e9), 0

    def readings() -> Iterator[Reading]:
        nonlocal written
        written += 1
        yield Reading(families.BUILD, ("1",), 1)

    metrics.reads(readings)
    wanted = [f"application/openmetrics-text;version={number}.0.0" for number in range(1, 30)]
    wanted += [f"text/plain;version=1.0.{number};escaping=dots" for number in range(30)]
    texts = {metrics.exposition(accept) for accept in ["", *wanted, *wanted]}
    assert len(texts) == written == 2


def test_a_text_is_not_kept_for_long() -> None:
    metrics = Metrics(rest_factor=0.0)
    metrics.reads(lambda: iter((Reading(families.BUILD, (str(next(count)),), 1),)))
    count = itertools.count()
    assert metrics.exposition("") != metrics.exposition("")
