"""Strangers' programs around deploy/ and the lock files: Helm, schemas of Kubernetes and compose, CycloneDX.

    python -m tests.support.deploy_tools         # fetch them, unless they are there: what `make deploy-tools` runs
    python -m tests.support.deploy_tools FILE    # write the bill of materials: what `make sbom` runs

They are large and have libraries of their own, so they are in an environment below `build/`, beside that of the tests.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import tempfile
import venv
from functools import cache
from pathlib import Path
from typing import Any, Final

from ra_gateway import __version__

ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = ROOT / "build" / "deploy-tools"

_PACKAGES: Final = (
    # Helm itself, as a library: there is no other way to have it from a package index.
    "helm-python-sdk==0.2.2",
    "kubernetes-validate==1.37.0",
    "check-jsonschema==0.39.0",
    "cyclonedx-bom==7.5.0",
    "PyYAML==6.0.4",
)

_YAML: Final = """\
import json, sys, yaml
print(json.dumps([item for item in yaml.safe_load_all(open(sys.argv[1])) if item]))
"""

_COMPOSE: Final = """\
import json, sys, jsonschema, yaml
from importlib.resources import files
schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
jsonschema.validate(yaml.safe_load(open(sys.argv[1])), schema)
"""

_CHART: Final = """\
import json, sys, yaml, helm_python, kubernetes_validate
chart, values, strict = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
found = helm_python.lint(chart, values, strict=True)
if found["errors"]:
    sys.exit(str(found))
rendered = helm_python.Chart.load(chart).render(values, name="site", namespace="pki")
manifests = []
for path, text in rendered.items():
    if path.endswith(".txt"):
        continue
    for manifest in yaml.safe_load_all(text):
        if manifest:
            for version in strict:
                kubernetes_validate.validate(manifest, version, strict=True)
            manifests.append(manifest)
print(json.dumps(manifests))
"""


@cache
def python() -> Path:
    """Return the interpreter that has them; fetched if need be."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    found = DIRECTORY / "venv/bin/python"
    stamp = DIRECTORY / "packages"
    wanted = "\n".join((str(DIRECTORY), sys.version, *_PACKAGES))
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(DIRECTORY / "venv", clear=True, with_pip=True)
            _run(found, "-m", "pip", "install", "--quiet", *_PACKAGES)
            stamp.write_text(wanted)
    return found


def documents(path: Path) -> list[dict[str, Any]]:
    """Return what is in a YAML file."""
    found: list[dict[str, Any]] = json.loads(_run(python(), "-c", _YAML, path))
    return found


def require_compose(path: Path) -> None:
    """Hold a file against the schema of the compose specification.

    Raises:
        AssertionError: It does not fit.
    """
    _run(python(), "-c", _COMPOSE, path)


def rendered(
    chart: Path, values: dict[str, Any], versions: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return what Helm makes of a chart, held against the schemas of some versions of Kubernetes ("1.34").

    Raises:
        AssertionError: Helm refuses it, or it does not fit.
    """
    found: list[dict[str, Any]] = json.loads(
        _run(python(), "-c", _CHART, chart, json.dumps(values), json.dumps(versions))
    )
    return found


def write_bill_of_materials(path: Path) -> None:
    """Write what an installation with all extras consists of, by the lock file, as CycloneDX in JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        # The version stands in the package; the tool looks for it here.
        project = Path(directory) / "pyproject.toml"
        text = (ROOT / "pyproject.toml").read_text()
        dynamic = 'dynamic = ["version"]'
        assert dynamic in text
        project.write_text(text.replace(dynamic, f'version = "{__version__}"'))
        _run(
            *(python().with_name("cyclonedx-py"), "requirements", ROOT / "requirements-all.lock"),
            *("--pyproject", project, "--mc-type", "application", "--output-reproducible"),
            *("--validate", "-o", path),
        )


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


if __name__ == "__main__":
    if sys.argv[1:]:
        write_bill_of_materials(Path(sys.argv[1]))
    else:
        python()
