"""The Helm chart, as Helm renders it and Kubernetes' own schemas see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

import ra_gateway
from ra_gateway.metrics import families
from tests.support.deploy_tools import documents, rendered

CHART: Final = Path(__file__).parents[2] / "deploy/helm/ra-gateway"
VERSIONS: Final = ("1.27", "1.37")
VALUES: Final[dict[str, Any]] = {
    "config": '[store]\nkind = "redis"\nredis_url_path = "/run/ra_gateway/redis.url"\n',
    "files": {"ra.pem": "-----BEGIN CERTIFICATE-----\n"},
    "secret": "gateway",
}


@pytest.fixture(scope="module")
def chart() -> dict[str, dict[str, Any]]:
    """With all that can be switched on, by kind."""
    values = VALUES | {"autoscaling": {"enabled": True}}
    return {item["kind"]: item for item in rendered(CHART, values, VERSIONS)}


def test_everything_is_there(chart: dict[str, dict[str, Any]]) -> None:
    """Each once, in the release's namespace, for the same pods."""
    assert set(chart) == {
        *("ConfigMap", "Deployment", "Service"),
        *("PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"),
    }
    labels = chart["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels == chart["Service"]["spec"]["selector"]
    for kind, key in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert chart[kind]["spec"][key]["matchLabels"] == labels


def test_values_that_are_none_are_refused() -> None:
    """By the chart's schema, and what has no default is asked for."""
    for values, said in (
        (VALUES | {"replica": 3}, "replica"),
        (VALUES | {"replicas": 0}, "replicas"),
        (VALUES | {"secret": ""}, "secret"),
        (VALUES | {"config": ""}, "config"),
    ):
        with pytest.raises(AssertionError, match=said):
            rendered(CHART, values, VERSIONS)


def test_pods_are_shut_in(chart: dict[str, dict[str, Any]]) -> None:
    """No root, nothing written to the image, no token, secrets as files in memory."""
    pod = chart["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "env" not in container
        assert container["resources"]["limits"]["memory"]
    volumes = {item["name"]: item for item in pod["volumes"]}
    assert volumes["secret"]["secret"]["secretName"] == "gateway"
    assert volumes["secrets"]["emptyDir"]["medium"] == "Memory"


def test_probes_ask_the_management_listener(chart: dict[str, dict[str, Any]]) -> None:
    """Life and readiness apart: a Redis that is down takes no pod away."""
    (container,) = chart["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    } == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    ports = {item["name"]: item["containerPort"] for item in container["ports"]}
    assert f"--port={ports['cmp']}" in container["args"]
    assert f"--set=management.listen_port={ports['management']}" in container["args"]


def test_a_pod_may_drain(chart: dict[str, dict[str, Any]]) -> None:
    """It is killed after lame duck and drain (30 s), and none is taken away before another is ready."""
    spec = chart["Deployment"]["spec"]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 5 + 30
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert "replicas" not in spec, "the autoscaler's"
    (plain,) = (item for item in rendered(CHART, VALUES, VERSIONS) if item["kind"] == "Deployment")
    assert plain["spec"]["replicas"] == 2


def test_the_autoscaler_asks_for_a_metric_that_there_is(chart: dict[str, dict[str, Any]]) -> None:
    """Of the gateway's own."""
    pods, cpu = chart["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert cpu["resource"]["name"] == "cpu"
    assert f'"{pods["pods"]["metric"]["name"]}"' in Path(families.__file__).read_text()


def test_the_chart_has_the_release_of_the_program() -> None:
    """Whose image it takes."""
    (metadata,) = documents(CHART / "Chart.yaml")
    assert metadata["appVersion"] == ra_gateway.__version__
