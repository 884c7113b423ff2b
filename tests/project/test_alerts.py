"""The alert rules in deploy/prometheus: each one fires when it should, and not when all is well."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ra_gateway.metrics.families import FAMILIES, Kind
from tests.support.prometheus import promtool

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy"
RULES: Final = DEPLOY / "prometheus/alerts.yaml"
DASHBOARD: Final = DEPLOY / "grafana/ra_gateway.json"

ALERTS: Final = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), flags=re.MULTILINE)

DAY: Final = 86_400
HOURS: Final = 2
"""So long the series of a test last; what looks back further takes what there is."""


class Case(NamedTuple):
    """Series by which an alert fires, and those by which it does not: values by minute.

    Args:
        series: With their labels, and `{}` for the values.
    """

    series: tuple[str, ...]
    bad: tuple[str, ...]
    good: tuple[str, ...]


def gauge(series: str, bad: float, good: float, *others: str) -> Case:
    """A series that stays at a value; others are there all the same."""
    return Case((series,), (_always(bad),), (_always(good),)) if not others else Case(
        (series, *others), (_always(bad), *[_always(1)] * len(others)),
        (_always(good), *[_always(1)] * len(others)),
    )  # fmt: skip


def _always(value: float) -> str:
    return f"{value:g}x{HOURS * 60}"


def _growing(by_minute: float) -> str:
    return f"0+{by_minute:g}x{HOURS * 60}"


def share(bad: str, all_else: str) -> Case:
    """A counter that should be a small part of what two count together."""
    return Case((bad, all_else), (_growing(90), _growing(10)), (_growing(0), _growing(100)))


def slow(name: str, too_slow: str, labels: str) -> Case:
    """A histogram of whose values all, or none, are in the buckets above a bound."""
    series = tuple(f'{name}_bucket{{{labels},le="{le}"}}' for le in (too_slow, "30", "+Inf"))
    return Case(
        series,
        (_growing(1), _growing(100), _growing(100)),
        (_growing(100), _growing(100), _growing(100)),
    )


AT: Final = 'job="ra_gateway",instance="a"'
BUILD: Final = f'ra_gateway_build_info{{{AT},version="1"}}'
SOON: Final = HOURS * 3600
"""When the tests look, in seconds of their time."""

CASES: Final = {
    # It went before the hour that lies between: whoever was paged then is not told that all is well.
    "RAGatewayGone": Case(
        (f"up{{{AT}}}", BUILD),
        (_always(0), f"1x9 stale _x{HOURS * 60 - 11}"),
        (_always(1), _always(1)),
    ),
    "RAGatewayNotReady": gauge(f'ra_gateway_ready{{{AT},part="store"}}', 0, 1),
    "RAGatewayRestarting": Case(
        (f"process_start_time_seconds{{{AT}}}", BUILD),
        (_growing(1), _always(1)),
        (_always(1), _always(1)),
    ),
    "RAGatewayWorkersEnding": Case(
        (f"ra_gateway_workers_ended_total{{{AT}}}",), (_growing(1),), (_growing(0.05),)
    ),
    "RAGatewayReloadRefused": gauge(
        f'ra_gateway_last_reload_successful{{{AT},by="gateway"}}', 0, 1
    ),
    # Two gateways beside a CA, whose configuration is another one rightly.
    "RAGatewayConfigurationsDiffer": Case(
        tuple(
            f'ra_gateway_shared_configuration_info{{{at},by="{by}",digest="{digest}"}}'
            for at, by, digest in (
                (AT, "gateway", "1"),
                (AT, "ca", "2"),
                (f'{AT},host="b"', "gateway", "1"),
                (f'{AT},host="b"', "gateway", "3"),
            )
        ),
        (_always(1), _always(1), f"1x9 stale _x{HOURS * 60 - 11}", f"_x9 1x{HOURS * 60 - 10}"),
        (_always(1), _always(1), f"1x{HOURS * 60 - 20} stale _x18", f"_x{HOURS * 60 - 20} 1x20"),
    ),
    "RAGatewayInventoryRefused": gauge(f"ra_gateway_inventory_current{{{AT}}}", 0, 1),
    "RAGatewayCredentialRefused": gauge(
        f'ra_gateway_credential_files_current{{{AT},of="ra"}}', 0, 1
    ),
    "RAGatewayClockStepped": gauge(f"ra_gateway_clock_steady{{{AT}}}", 0, 1),
    "RAGatewayStandsStill": slow("ra_gateway_loop_lag_duration_seconds", "0.1", AT),
    "RAGatewayOutOfFiles": gauge(
        f"process_open_fds{{{AT}}}", 0.9, 0.5, f"process_max_fds{{{AT}}}", BUILD
    ),
    "RAGatewayMetricsLeftOut": gauge(f"ra_gateway_series_left_out{{{AT}}}", 1, 0),
    "RAGatewayFails": share(
        f'ra_gateway_messages_total{{{AT},outcome="failed"}}',
        f'ra_gateway_messages_total{{{AT},outcome="issued"}}',
    ),
    "RAGatewayBug": Case(
        (f'ra_gateway_messages_total{{{AT},rule="bug"}}',),
        (f"_x{HOURS * 60 - 5} 1 1 1 1 1 1",),
        (_always(1),),
    ),
    "RAGatewayRefusesADomain": share(
        f'ra_gateway_messages_total{{{AT},domain="acme",outcome="refused"}}',
        f'ra_gateway_messages_total{{{AT},domain="acme",outcome="issued"}}',
    ),
    "RAGatewayRefusesStrangers": Case(
        (f'ra_gateway_messages_total{{{AT},by="gateway",domain="",outcome="refused"}}',),
        (_growing(90),),
        (_growing(6),),
    ),
    "RAGatewaySlow": slow(
        "ra_gateway_message_duration_seconds", "10", f'{AT},by="gateway",type="ir"'
    ),
    "RAGatewayUnconfirmed": Case(
        (
            f'ra_gateway_certificates_total{{{AT},by="gateway",event="unconfirmed",upstream="ejbca"}}',
        ),
        (_growing(1),),
        (_growing(0.1),),
    ),
    "RAGatewayAnswerLost": Case(
        (f'ra_gateway_certificates_total{{{AT},by="gateway",event="lost",upstream="ejbca"}}',),
        (_growing(0.1),),
        (_always(1),),
    ),
    "RAGatewayUpstreamDown": gauge(f'ra_gateway_upstream_up{{{AT},upstream="ejbca"}}', 0, 1),
    "RAGatewayUpstreamURLDown": gauge(
        f'ra_gateway_upstream_url_healthy{{{AT},upstream="ejbca",url="http://a"}}', 0, 1
    ),
    "RAGatewayUpstreamFails": share(
        f'ra_gateway_upstream_exchange_duration_seconds_count{{{AT},upstream="ejbca",outcome="unavailable"}}',
        f'ra_gateway_upstream_exchange_duration_seconds_count{{{AT},upstream="ejbca",outcome="answered"}}',
    ),
    "RAGatewayStoreDown": gauge(f'ra_gateway_store_up{{{AT},by="ca"}}', 0, 1),
    "RAGatewayStoreSlow": slow(
        "ra_gateway_store_round_trip_duration_seconds", "0.5", f'{AT},outcome="answered"'
    ),
    "RAGatewayStoreForgets": gauge(f"ra_gateway_store_forgets{{{AT}}}", 1, 0),
    "RAGatewayStoreNotBelieved": Case(
        (f"ra_gateway_store_not_believed_total{{{AT}}}",), (_growing(1),), (_always(5),)
    ),
    "RAGatewayAuditDown": gauge(f"ra_gateway_audit_up{{{AT}}}", 0, 1),
    "RAGatewayAuditLost": Case(
        (f"ra_gateway_audit_lost_total{{{AT}}}",), (_growing(1),), (_always(5),)
    ),
    "RAGatewayAuditStreamDown": gauge(f'ra_gateway_audit_stream_up{{{AT},stream="siem"}}', 0, 1),
    "RAGatewayStoreFull": gauge(
        f"ra_gateway_transactions_unfinished{{{AT}}}",
        0.9,
        0.5,
        f"ra_gateway_transactions_limit{{{AT}}}",
    ),
    "RAGatewayApprovalsWait": gauge(f"ra_gateway_approvals_held{{{AT}}}", 1, 0),
    "RAGatewayApprovalsFull": gauge(
        f"ra_gateway_approvals_held{{{AT}}}", 0.9, 0.5, f"ra_gateway_approvals_held_limit{{{AT}}}"
    ),
    "RAGatewayScheduleOverdue": gauge(f"ra_gateway_scheduled_overdue{{{AT}}}", 3, 0),
    "RAGatewayConnectionsFull": gauge(
        f'ra_gateway_http_connections{{{AT},listener="cmp"}}',
        0.9,
        0.5,
        f'ra_gateway_http_connections_limit{{{AT},listener="cmp"}}',
    ),
    "RAGatewayConnectionsRefused": Case(
        (f'ra_gateway_http_connections_closed_total{{{AT},listener="cmp",reason="refused"}}',),
        (_growing(1),),
        (_always(5),),
    ),
    "RAGatewayBusy": gauge(
        f'ra_gateway_http_requests_in_flight{{{AT},listener="cmp"}}',
        0.9,
        0.5,
        f'ra_gateway_http_requests_in_flight_limit{{{AT},listener="cmp"}}',
    ),
    "RAGatewayTurningAway": Case(
        (f'ra_gateway_turned_away_total{{{AT},limit="vendor"}}',),
        (_growing(30),),
        (_growing(2),),
    ),
    "RAGatewayHTTPRefused": Case(
        (f'ra_gateway_http_refused_total{{{AT},listener="cmp",status="404"}}',),
        (_growing(90),),
        (_growing(6),),
    ),
    "RAGatewayCertificateExpires": Case(
        tuple(
            f'ra_gateway_certificate_expiry_timestamp_seconds{{{AT},use="{use}",of="acme",subject="CN=A"}}'
            for use in ("anchor", "tls")
        ),
        (_always(SOON + 31 * DAY), _always(SOON + 13 * DAY)),
        (_always(SOON + 30 * DAY + 60), _always(SOON + 15 * DAY)),
    ),
    "RAGatewayCertificateEndsNow": gauge(
        f'ra_gateway_certificate_expiry_timestamp_seconds{{{AT},use="anchor",of="acme",subject="CN=A"}}',
        SOON + 2 * DAY - 60,
        SOON + 2 * DAY + 60,
    ),
    **{
        alert: gauge(
            f'ra_gateway_ca_expiry_timestamp_seconds{{{AT},file="ocsp.pem",subject="CN=A"}}',
            SOON + days * DAY - 60,
            SOON + days * DAY + 60,
        )
        for alert, days in (("RAGatewayCAExpires", 30), ("RAGatewayCAEndsNow", 2))
    },
    "RAGatewayRegisteredRAExpires": gauge(
        f'ra_gateway_ca_ra_expiry_timestamp_seconds{{{AT},ra="north"}}',
        SOON + 30 * DAY - 60,
        SOON + 30 * DAY + 60,
    ),
    "RAGatewayCRLEnded": gauge(
        f'ra_gateway_crl_next_update_timestamp_seconds{{{AT},domain="acme",source="a.crl"}}',
        SOON - 1200,
        SOON + 60,
    ),
    "RAGatewayRevocationFails": gauge(
        f'ra_gateway_revocation_sources{{{AT},domain="acme",kind="CRL",state="failing"}}', 1, 0
    ),
    "RAGatewayCACRLLate": Case(
        (
            f'ra_gateway_ca_crl_next_update_timestamp_seconds{{{AT},issuer="ab",form="full"}}',
            f'ra_gateway_ca_crl_due_timestamp_seconds{{{AT},issuer="ab",form="full"}}',
        ),
        (_always(SOON + 1000), _always(SOON - 2000)),
        (_always(SOON + 3000), _always(SOON - 2000)),
    ),
    "RAGatewayBackupOld": gauge(
        f"ra_gateway_ca_backup_due_timestamp_seconds{{{AT}}}", SOON - 1200, SOON + 60
    ),
    "RAGatewayLedgerSlow": slow(
        "ra_gateway_ca_ledger_write_duration_seconds", "1", f'{AT},durable="true"'
    ),
}


def test_every_alert_has_its_case() -> None:
    assert list(CASES) == ALERTS
    assert len(set(ALERTS)) == len(ALERTS)


def test_every_alert_has_its_section() -> None:
    """On the page that says what to do, in the same order, and each rule leads to its own."""
    page = (DEPLOY.parent / "docs/alerts.md").read_text()
    sections = re.split(r"^#+ ", page, flags=re.MULTILINE)[1:]
    named = [text.split("\n")[0] for text in sections if text.startswith("RAGateway")]
    assert named == ALERTS
    assert [text for text in sections if text.startswith("RAGateway") and len(text) < 200] == []
    urls = re.findall(r"^ +runbook_url: (.*)$", RULES.read_text(), flags=re.MULTILINE)
    assert urls == [f"docs/alerts.md#{name.lower()}" for name in ALERTS]


def test_the_rules_are_rules() -> None:
    told = promtool("check", "rules", RULES)
    assert f"SUCCESS: {len(ALERTS)} rules found" in told
    promtool("check", "config", DEPLOY / "prometheus/prometheus.yaml")


@pytest.mark.parametrize("bad", [True, False], ids=["fires", "is quiet"])
def test_every_alert(tmp_path: Path, bad: bool) -> None:
    """By its own series, two hours long, under a job of its own name: it fires at their end, or not."""
    series, expected = [], []
    for alert, case in CASES.items():
        for name, values in zip(case.series, case.bad if bad else case.good, strict=True):
            of_job = name.replace(AT, f'job="{alert}",instance="a"')
            series.append({"series": of_job, "values": values})
        query = f'count(ALERTS{{job="{alert}",alertname="{alert}",alertstate="firing"}})'
        samples = [{"labels": "{}", "value": 1}] if bad else []
        expected.append({"expr": query, "eval_time": f"{HOURS}h", "exp_samples": samples})
    test = {"interval": "1m", "input_series": series, "promql_expr_test": expected}
    path = tmp_path / "rules_test.json"  # JSON is YAML
    path.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})
    )
    promtool("test", "rules", path)


@pytest.mark.parametrize("path", [RULES, DASHBOARD], ids=lambda path: path.name)
def test_there_are_all_metrics_that_are_asked_for(path: Path) -> None:
    """A query for a metric that is not there says nothing, for ever."""
    declared = {family.name for family in FAMILIES if family.kind is not Kind.histogram}
    declared |= {
        f"{family.name}_{part}"
        for family in FAMILIES
        if family.kind is Kind.histogram
        for part in ("bucket", "count", "sum")
    }
    # Names of groups of rules, and what stands in texts.
    apart = {"ra_gateway_stage_duration_seconds", "ra_gateway_ca"}
    found = set(re.findall(r"\bra_gateway_\w+", path.read_text()))
    groups = set(re.findall(r"- name: (\w+)", path.read_text()))
    assert found - declared - groups - apart == set()
