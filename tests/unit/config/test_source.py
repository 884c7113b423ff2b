"""Settings that the environment and the command line lay over a file: which, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ra_gateway.config import source as source_module
from ra_gateway.config.reading import is_of_ca_alone, load, load_ca
from ra_gateway.config.source import Source
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.errors import ConfigError
from tests.support.configurations import written

ROUTES = '\n[[endpoints.ran.routes]]\ncert_profiles = ["tls"]\nupstream = "main"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration."""
    path = tmp_path / "gateway.toml"
    path.write_text(written(ROUTES))
    return path


def loaded(file: Path, *settings: str, **variables: str) -> GatewayConfig:
    """Return what a configuration is with settings and environment variables."""
    return load(Source.found(file, variables, settings), check_files=False)


def refused(file: Path, *settings: str, **variables: str) -> list[str]:
    """Return what is said of one that cannot be used."""
    with pytest.raises(ConfigError) as caught:
        loaded(file, *settings, **variables)
    return [str(problem) for problem in caught.value.problems]


def test_a_setting_stands_in_place_of_the_files(file: Path) -> None:
    """Numbers, texts with and without quotes, lists, and tables that the file does not have."""
    config = loaded(
        file,
        "server.listen_port=8081",
        "server.listen_host=127.0.0.2",
        'log.level="debug"',
        'vendors.acme.anchors_paths=["a.pem", "b.pem"]',
        "vendors.acme.revocation.mode=off",
    )
    assert (config.server.listen_port, config.server.listen_host) == (8081, "127.0.0.2")
    assert config.log.level == "debug"
    assert config.vendors["acme"].anchors_paths == (
        file.parent / "a.pem",
        file.parent / "b.pem",
    )


def test_the_command_line_stands_above_the_environment_and_that_above_the_file(file: Path) -> None:
    """The last --set counts."""
    variables = {"RA_GATEWAY__SERVER__LISTEN_PORT": "8082", "RA_GATEWAY__LOG__LEVEL": "error"}
    settings = ("server.listen_port=8083", "server.listen_port=8084")
    config = loaded(file, *settings, **variables)
    assert (config.server.listen_port, config.log.level) == (8084, "error")
    assert loaded(file, **variables).server.listen_port == 8082
    assert loaded(file, RA_GATEWAYX="1", HOME="/").server.listen_port == 8080


def test_the_environment_reaches_names_of_the_operators(tmp_path: Path) -> None:
    """Capitals and hyphens of a name that the file has; entries of a list by their number."""
    file = tmp_path / "gateway.toml"
    file.write_text(
        written(ROUTES.replace('"main"', '"Main-CA"'))
        .replace("[upstreams.main]", "[upstreams.Main-CA]")
        .replace('upstream = "main"', 'upstream = "Main-CA"')
    )
    config = loaded(
        file,
        RA_GATEWAY__UPSTREAMS__MAIN_CA__URL="http://other.example.net/cmp",
        RA_GATEWAY__ENDPOINTS__RAN__ROUTES__0__CERT_PROFILES='["seg"]',
    )
    assert config.upstreams["Main-CA"].url == "http://other.example.net/cmp"  # type: ignore[union-attr]
    assert config.endpoints["ran"].routes[0].cert_profiles == ("seg",)
    config = loaded(file, 'endpoints.ran.routes[0].cert_profiles=["x"]')
    assert config.endpoints["ran"].routes[0].cert_profiles == ("x",)


@pytest.mark.parametrize(
    "setting, variable, told",
    [
        ("server.listen_prt=1", "SERVER__LISTEN_PRT", "server.listen_prt (from {}): is not a known key. Correct"),
        ("servr.listen_port=1", "SERVR__LISTEN_PORT", "servr (from {}): is not a known key. Correct"),
        ("server.listen_port=x", "SERVER__LISTEN_PORT", "server.listen_port (from {}): must be a whole number"),
        ('server={listen_port="x"}', "SERVER", "server.listen_port (from {}): must be a whole number"),
        ("server.listen_port=70000", "SERVER__LISTEN_PORT", "server.listen_port (from {}): must be at most 65535"),
        ("server.listen_port.x=1", "SERVER__LISTEN_PORT__X", "server.listen_port (from {}): "),
        ("endpoints.ran.routes[7].x=x", "ENDPOINTS__RAN__ROUTES__7__X", "endpoints.ran.routes (from {}): has nothing"),
        ("endpoints.ran.upstream=other", "ENDPOINTS__RAN__UPSTREAM", "endpoints.ran.upstream (from {}): "),
        ("upstreams.other.url=http://x/", "UPSTREAMS__OTHER__URL", "upstreams.other.kind (from {}): is required"),
        ("log.level=", "LOG__LEVEL", "log.level (from {}): is not one of the values"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_as_in_the_file(
    setting: str, variable: str, told: str, file: Path
) -> None:
    """The place, where it comes from, what and what to do."""
    if ".listen_port." in setting:
        file.write_text(file.read_text().replace("[server]", "[server]\nlisten_port = 1"))
    value = setting.partition("=")[2]
    assert refused(file, setting)[0].startswith(told.format("--set"))
    name = f"RA_GATEWAY__{variable}"
    assert refused(file, **{name: value})[0].startswith(told.format(name))


def test_what_is_wrong_in_the_file_is_not_blamed_on_a_setting(file: Path) -> None:
    """A table that the file has, with one setting from elsewhere."""
    file.write_text(file.read_text().replace("[server]", '[server]\nlisten_host = ""\nx = 1'))
    told = refused(file, "server.listen_port=8081")
    assert [line.split(": ")[0] for line in told if "(from" in line] == []


@pytest.mark.parametrize("text", ["server.listen_port", "=1", "server..x=1", "a b=1", ".x=1"])
def test_what_is_no_setting(text: str, file: Path) -> None:
    """What stands behind the sign is not shown."""
    (told,) = refused(file, text)
    assert told.startswith("--set: ")
    assert told.endswith("Write it like server.listen_port=8081")
    (told,) = refused(file, "hunter2" * 40)
    assert len(told) < 200


@pytest.mark.parametrize("name", ["RA_GATEWAY__", "RA_GATEWAY__SERVER__", "RA_GATEWAY____X"])
def test_a_variable_that_names_no_setting(name: str, file: Path) -> None:
    """It is not passed over."""
    (told,) = refused(file, **{name: "1"})
    assert told.startswith(f"{name}: is no setting's. Write RA_GATEWAY__SERVER__LISTEN_PORT for ")


def test_a_value_that_begins_another_setting_is_a_text(file: Path) -> None:
    """One value is one value."""
    assert refused(file, "server.listen_port=1\nx = 2")[0].startswith("server.listen_port")


def test_the_ca_by_itself_has_settings_too(tmp_path: Path) -> None:
    """They are laid over before it is told what kind of file it is."""
    file = tmp_path / "ca.toml"
    file.write_text('[ca]\ndirectory_path = "ca"\nledger_path = "l.sqlite"\n')
    source = Source.found(file, {"RA_GATEWAY__CA__SERVER__LISTEN_PORT": "8084"}, ())
    assert is_of_ca_alone(source)
    server = load_ca(source, check_files=False).ca.server
    assert server.listen_port == 8084
    with pytest.raises(ConfigError, match=r"^ca.nonsense \(from --set\): is not a known key"):
        load_ca(Source.found(file, {}, ["ca.nonsense=1"]), check_files=False)


def test_the_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As named, else as the environment says, else the first default that is there."""
    here, etc = Path("gateway.toml"), tmp_path / "etc.toml"
    monkeypatch.setattr(source_module, "DEFAULT_PATHS", (here, etc))
    monkeypatch.chdir(tmp_path)
    variables = {"RA_GATEWAY_CONFIG": "/other.toml"}
    assert Source.found(Path("x.toml"), variables, ()).path == Path("x.toml")
    assert Source.found(None, variables, ()).path == Path("/other.toml")
    assert Source.found(None, {"RA_GATEWAY_CONFIG": ""}, ()).path == here
    etc.touch()
    assert Source.found(None, {}, ()).path == etc
    here.touch()
    assert Source.found(None, {}, ()).path == here
    here.unlink()
    etc.unlink()
    with pytest.raises(ConfigError, match=r"Without one, .*etc.toml is read if it is there"):
        Source.found(None, {}, ()).tables()
