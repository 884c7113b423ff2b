"""Write docs/metrics.md from ra_gateway.metrics.families and the alert rules in deploy/prometheus/alerts.yaml.

python docs/metrics_reference.py > docs/metrics.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ra_gateway.durations import BOUNDS_SECONDS
from ra_gateway.metrics.families import FAMILIES, LABELS

ROOT = Path(__file__).resolve().parents[1]
ALERTS = ROOT / "deploy/prometheus/alerts.yaml"

PREFACE = """# Metrics

<!-- Written by docs/metrics_reference.py from ra_gateway/metrics/ and deploy/prometheus/; a test compares them. -->

Each process serves its own at `/metrics` of its management listener (`[management]`), by default on this machine alone,
1000 above its port for CMP:

    curl -s http://127.0.0.1:9080/metrics

Several gateways are several targets; what they share (approvals, schedule, ledger) each of them tells, so take the
`max` of it, and the `sum` of all else. `deploy/prometheus/` has an example of a configuration and the alert rules
below, `deploy/grafana/ra_gateway.json` a dashboard. Next to these, there are the usual `process_*` and `python_gc_*`.

Of several workers (`server.workers`) the parent serves one page: counters and histograms are summed up, and so are
connections, messages in flight and memory; of what each sees of the same thing (CAs, the store, inventories,
certificates) the worst is told. What a worker counted that has ended stays in the sums, as far as it had been scraped.

A counter with labels appears when it counts for the first time, and names that a reload took out of the configuration
are forgotten with the next reload.
"""


def reference() -> str:
    """Return the page as Markdown."""
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_SECONDS)
    parts = [
        PREFACE,
        "## What there is\n\n| Metric | Kind | Labels | Meaning |\n|---|---|---|---|",
        *_metrics(),
        f"\nHistograms have buckets up to {bounds} s.\n",
        "## Labels\n\nNone is taken from what a device sends: each has few values.\n",
        "| Label | Values |\n|---|---|",
        *(f"| `{name}` | {values} |" for name, values in LABELS.items()),
        "\n## Alerts\n\nWhat to do about each is in its section of [alerts.md](alerts.md).\n",
        "| Alert | Severity | Means |\n|---|---|---|",
        *_alerts(),
        "",
    ]
    return "\n".join(parts)


def _metrics() -> Iterator[str]:
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        yield f"| `{family.name}` | {family.kind} | {labels} | {family.meaning} |"


def _alerts() -> Iterator[str]:
    for rule in re.split(r"^ +- alert: ", ALERTS.read_text(encoding="utf-8"), flags=re.M)[1:]:
        name = rule.split("\n", 1)[0]
        cells = [_value(rule, key) for key in ("severity", "summary")]
        yield f"| [{name}](alerts.md#{name.lower()}) | " + " | ".join(cells) + " |"


def _value(rule: str, key: str) -> str:
    found = re.search(rf'^ +{key}: "?(.+?)"?$', rule, flags=re.M)
    assert found is not None, (key, rule)
    text = re.sub(r"{{ *\$value[^}]*}}", "*so long*", found[1])
    return re.sub(r"{{ *\$labels\.(\w+) *}}", r"*\1*", text)


if __name__ == "__main__":
    sys.stdout.write(reference())
