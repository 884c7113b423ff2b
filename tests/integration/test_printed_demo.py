"""What README, docs/cli.md, docs/metrics.md and the examples in help do with the demo, as it stands there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.openssl import load_certificate
from tests.support.ports import free_port
from tests.support.printed import HELP, Prompt, to_run

LAB: Final = r"ra-gateway (enroll|renew|replay|show|simulate) "
REQUEST: Final = (
    "-cmd ir -server 127.0.0.1:8080 -path /.well-known/cmp -cert device.pem -key device.key -extracerts sub.pem "
    "-trusted ../demo/operator/root.pem -subject /CN=enb-3.ran.example.net -sans enb-3.ran.example.net "
    "-newkey new.key -certout new.pem"
)
"""What stands for the dots in `openssl cmp ...`."""
TCPDUMP: Final = r"""
echo "12:00:00.000001 IP 192.0.2.1.40000 > 192.0.2.2.8080: Flags [P.], length 99"
od -An -v -tx1 -w16 "$(dirname "$0")/../ir.der" | awk '{
  printf "\t0x%04x: ", (NR - 1) * 16
  for (i = 1; i <= NF; i += 2) printf " %s%s", $i, $(i + 1)
  print ""
}'
"""
"""Prints a request as tcpdump -x does."""
GENM: Final = (
    "ra-gateway serve --config gateway.toml --port {} --set management.listen_port=0 "
    '--set ca.status.listen_port=0 --set \'endpoints.ran.body_types=["ir", "kur", "genm"]\''
)


def of_lab(page: str) -> list[str]:
    """Return what a page has a base station do, and what looks at messages."""
    return [line.text for line in to_run(page) if re.search(LAB, line.text)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prompt]:
    """A prompt in the directory of the demo that help starts, while it serves."""
    directory = tmp_path_factory.mktemp("demo")
    place = directory / "demo"
    prompt = Prompt(
        directory,
        {"/tmp/demo": str(place), "127.0.0.1:8080": f"127.0.0.1:{(port := free_port())}"},  # noqa: S108
        programs={"tcpdump": TCPDUMP},
    )
    prompt.texts["--port 8080"] = f"--port {port}"
    (line,) = (line.text for line in to_run(HELP) if "ra-gateway demo" in line.text)
    with prompt.serving(line, until="openssl cmp -cmd ir"):
        url = (place / "management_url").read_text().strip()
        prompt.texts |= {"http://127.0.0.1:9080": url, "cmp ... ": f"cmp {REQUEST} "}
        yield prompt


def test_a_base_station_of_the_readme(demo: Prompt) -> None:
    """It enrols by openssl under another name, and has a certificate for it; all else there is run by the tutorial."""
    printed = [line.text for line in to_run("README.md")]
    commands = [text for text in printed if "openssl" in text]
    assert len(commands) == 2
    elsewhere = {line.text for page in ("docs/tutorial.md", "docs/cli.md") for line in to_run(page)}
    assert {*printed} - {*commands} <= elsewhere
    demo.here = demo.directory
    for command in commands:
        demo.succeeds(command)
    subject = load_certificate(demo.directory / "demo/new.pem").subject
    assert subject.rfc4514_string() == "CN=enb-2.ran.example.net"


@pytest.mark.parametrize("page", [HELP, "docs/cli.md"])
def test_a_base_station_of_the_command_line(demo: Prompt, page: str) -> None:
    """It enrols, asks and renews; one that is wrong is refused; what openssl saves is shown."""
    place = demo.directory / "demo"
    lab = demo.directory / page.replace("/", "-")
    shutil.copytree(place / "vendor", lab / "vendor")
    shutil.copytree(place / "vendor", lab, dirs_exist_ok=True)
    demo.here = lab
    demo.succeeds("openssl ecparam -name prime256v1 -genkey -noout -out new.key")
    demo.succeeds(f"openssl cmp {REQUEST} -reqout ir.der")
    shutil.copyfile(lab / "ir.der", demo.directory / "ir.der")
    (lab / "site").symlink_to(place)
    for command in of_lab(page):
        demo.here = lab
        if "--request genm" in command:
            demo.here, port = place, str(free_port())
            with demo.serving(GENM.format(port)):
                demo.here = lab
                demo.succeeds(command.replace("127.0.0.1:8080", f"127.0.0.1:{port}"))
        elif "--fault clock" in command:
            ended = demo.run(command)
            assert (ended.exit_code, "badTime" in ended.output) == (1, True), ended.output
        else:
            demo.succeeds(command)


def test_a_fleet(demo: Prompt) -> None:
    """It enrols and renews as docs/simulating.md has it, and what one run keeps is renewed by the next."""
    demo.here = demo.directory
    printed = [line.text for line in to_run("docs/simulating.md") if "simulate" in line.text]
    assert len(printed) == 3
    for command in printed:
        assert "failInfo" not in demo.succeeds(command)


def test_metrics(demo: Prompt) -> None:
    """What is printed shows them."""
    (command,) = to_run("docs/metrics.md")
    assert "ra_gateway_messages_total" in demo.succeeds(command.text)
