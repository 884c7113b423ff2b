"""`ra-gateway enroll` as a base station in a lab: all that it can ask for, a shared secret, and what it does wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.codes import BodyType
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.device.kinds import Fault
from ra_gateway.keys import load_certificates
from tests.support.commandline import PASSWORD, run, succeeded
from tests.support.pki import VendorPKI, make_root, write_certificates
from tests.support.processes import GatewayProcess
from tests.support.setups import edit, make_setup


@dataclass(frozen=True)
class Lab:
    """A running gateway, and a base station of a vendor it trusts."""

    gateway: GatewayProcess
    directory: Path
    root: Path

    @property
    def station(self) -> tuple[str | Path, ...]:
        """Options of a base station with a vendor certificate."""
        vendor = self.directory / "acme"
        return (
            *("enroll", "--url", self.gateway.url, "--cert", vendor / "device.pem"),
            *("--key", vendor / "device.key", "--chain", vendor / "sub.pem"),
        )

    def enrolled(self, directory: Path, subject: str) -> tuple[str | Path, ...]:
        """Enrol, and return the options of a base station with that operator certificate."""
        succeeded(*self.station, "--out", directory, "--subject", subject)
        return (
            *("enroll", "--url", self.gateway.url, "--trusted", self.root),
            *("--cert", directory / "cert.pem", "--key", directory / "key.pem"),
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, vendor_pki: VendorPKI) -> Iterator[Lab]:
    """A lenient gateway with the bundled CA, a memory store and a shared secret."""
    directory = tmp_path_factory.mktemp("lab")
    config = make_setup(directory, vendors={"acme": vendor_pki}, implicit_confirm="relay")
    vendor_pki.device("SN-000001").write(directory / "acme", "device")
    secrets = directory / "secrets.csv"
    secrets.touch(mode=0o600)
    secrets.write_text(
        f"reference,secret,subject,san,single_use,expires\nenb-9,{PASSWORD},CN=enb-9,dns:enb-9.example.net,false,\n"
    )
    settings = 'strictness = "lenient"\nbody_types = ["ir", "cr", "kur", "p10cr", "rr", "genm"]\n'
    text = config.read_text().replace("[endpoints.ran]\n", f"[endpoints.ran]\n{settings}", 1)
    config.write_text(text + '\n[endpoints.ran.mac]\nsecrets_path = "secrets.csv"\n')
    (directory / "secret").touch(mode=0o600)
    (directory / "secret").write_text(PASSWORD + "\n")
    with GatewayProcess(config) as gateway:
        yield Lab(gateway, directory, directory / "operator" / "root.pem")


def read(path: Path) -> Certificate:
    """Return the first certificate of a file."""
    return load_certificates(path, "test")[0]


def test_messages_are_saved(lab: Lab, tmp_path: Path) -> None:
    """Each as it was sent or came, also of what is refused."""
    saved = tmp_path / "messages"
    told = succeeded(
        *(*lab.station, "--out", tmp_path / "new", "--subject", "CN=enb-1"),
        *("--save-messages", saved),
    )
    assert "Wrote 4 message(s) to" in told
    names = ["1-ir.der", "2-ip.der", "3-certConf.der", "4-pkiconf.der"]
    assert sorted(path.name for path in saved.iterdir()) == names
    types = [PKIMessage.from_der((saved / name).read_bytes()).body_type for name in names]
    assert types == [BodyType.ir, BodyType.ip, BodyType.certConf, BodyType.pkiconf]
    refused = tmp_path / "refused"
    ended = run(*lab.station, "--out", tmp_path / "none", "--save-messages", refused)
    assert ended.exit_code == 1
    assert sorted(path.name for path in refused.iterdir()) == ["1-ir.der", "2-ip.der"]


def test_as_many_as_a_lab_wants(lab: Lab, tmp_path: Path) -> None:
    """Each has its number in its names, and a directory of its own; the first that fails ends it."""
    out, saved = tmp_path / "many", tmp_path / "messages"
    names = ("--subject", "CN=enb-3-{n}", "--san", "dns:enb-3-{n}.example.net")
    succeeded(*lab.station, *names, "--count", "3", "--out", out, "--save-messages", saved)
    subjects = [read(out / str(number) / "cert.pem").subject for number in (1, 2, 3)]
    assert subjects == ["CN=enb-3-1", "CN=enb-3-2", "CN=enb-3-3"]
    assert b"enb-3-2.example.net" in (read(out / "2" / "cert.pem").subject_alt_name_der or b"")
    assert (saved / "3" / "1-ir.der").is_file()
    ended = run(*lab.station, *names, "--count", "5", "--out", out)
    assert (ended.exit_code, f"{out}/1/cert.pem: exists already" in ended.stderr) == (2, True)
    ended = run(*lab.station, "--trusted", lab.root, "--request", "genm", "--count", "2")
    assert (ended.exit_code, "--count goes with" in ended.stderr) == (2, True)


@pytest.mark.parametrize("request_type", ["cr", "p10cr"])
def test_other_requests_for_certificates(request_type: str, lab: Lab, tmp_path: Path) -> None:
    """With the operator's certificate: cr, and a PKCS #10."""
    station = lab.enrolled(tmp_path / "first", "CN=enb-2")
    told = succeeded(
        *(*station, "--request", request_type, "--subject", "CN=enb-2", "--out", tmp_path / "new")
    )
    assert told.startswith(f"{request_type}, cp, certConf, pkiconf: CN=enb-2\n")
    assert read(tmp_path / "new" / "cert.pem").subject == "CN=enb-2"
    ended = run(*lab.station, "--request", request_type, "--out", tmp_path / "x")
    assert (ended.exit_code, "needs --trusted" in ended.stderr) == (2, True)


def test_a_name_goes_into_the_pkcs_10(lab: Lab, tmp_path: Path) -> None:
    """SubjectAltName is asked for as an extension; a wrong signature is no proof of possession."""
    new = tmp_path / "new"
    options = (
        *("enroll", "--url", lab.gateway.url, "--reference", "enb-9", "--subject", "CN=enb-9"),
        *("--secret-file", lab.directory / "secret", "--trusted", lab.root, "--request", "p10cr"),
    )
    succeeded(*options, "--san", "dns:enb-9.example.net", "--out", new)
    assert b"enb-9.example.net" in (read(new / "cert.pem").subject_alt_name_der or b"")
    ended = run(*options, "--fault", "pop", "--out", tmp_path / "none")
    assert (ended.exit_code, "badPOP" in ended.stderr) == (1, True)


def test_a_certificate_is_revoked_by_its_device(lab: Lab, tmp_path: Path) -> None:
    """rr with its own certificate; once more is refused."""
    station = lab.enrolled(tmp_path / "first", "CN=enb-4")
    serial = f"{read(tmp_path / 'first' / 'cert.pem').serial_number:x}"
    told = succeeded(*station, "--request", "rr", "--reason", "cessationOfOperation")
    assert told == f"rr, rp: CN=enb-4 (serial {serial}) is revoked.\n"
    listed = succeeded("ca", "show", serial, "--config", lab.directory / "gateway.toml")
    assert "Reason:       cessationOfOperation" in listed
    ended = run(*station, "--request", "rr")
    assert ended.exit_code == 1
    assert "certRevoked" in ended.stderr
    assert "transaction_id" in ended.stderr


def test_what_the_operator_has_is_asked_for(lab: Lab, tmp_path: Path) -> None:
    """genm: certificates of CAs go to a file, the rest is shown."""
    station = (*lab.station, "--trusted", lab.root, "--request", "genm")
    told = succeeded(*station, "--out", tmp_path / "told")
    assert told.startswith("genm, genp: caCerts\n")
    assert read(tmp_path / "told" / "cacerts.pem").is_ca
    told = succeeded(*station, "--ask", "certReqTemplate")
    assert told.startswith("genm, genp: certReqTemplate\n")


@pytest.mark.parametrize("mac", ["pbm", "pbmac1"])
@pytest.mark.parametrize("trusted", [True, False])
def test_a_shared_secret_in_place_of_a_certificate(
    mac: str, trusted: bool, lab: Lab, tmp_path: Path
) -> None:
    """The answers are believed by it; a wrong one is refused."""
    options = (
        *("enroll", "--url", lab.gateway.url, "--reference", "enb-9", "--subject", "CN=enb-9"),
        *("--mac", mac, *(("--trusted", lab.root) if trusted else ())),
    )
    secret = ("--secret-file", lab.directory / "secret")
    told = succeeded(*options, *secret, "--out", tmp_path / "new")
    assert told.startswith("ir, ip, certConf, pkiconf: CN=enb-9\n")
    assert read(tmp_path / "new" / "root.pem").der == read(lab.root).der
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("not the secret that was agreed on")
    ended = run(*options, "--secret-file", wrong, "--out", tmp_path / "none")
    assert ended.exit_code == 1
    assert "badMessageCheck" in ended.stderr or "wrongIntegrity" in ended.stderr


@pytest.mark.parametrize("request_type", ["genm", "rr"])
def test_questions_under_a_shared_secret(request_type: str, lab: Lab, tmp_path: Path) -> None:
    """They are sent so, and this gateway takes them signed only: what it says is believed by the secret."""
    saved = tmp_path / "messages"
    own = ("--cert", lab.directory / "acme" / "device.pem") if request_type == "rr" else ()
    options = (
        "enroll",
        "--url",
        lab.gateway.url,
        "--request",
        request_type,
        "--reference",
        "enb-9",
    )
    secret = ("--secret-file", lab.directory / "secret")
    ended = run(*options, *own, *secret, "--save-messages", saved)
    assert (ended.exit_code, "wrongIntegrity" in ended.stderr) == (1, True), ended.stderr
    sent = PKIMessage.from_der((saved / f"1-{request_type}.der").read_bytes())
    assert sent.header.sender_kid == b"enb-9"


def test_https(tmp_path: Path, vendor_pki: VendorPKI) -> None:
    """The listener's root is trusted where it is given, and none without; a certificate is shown if it wants one."""
    config = make_setup(tmp_path, vendors={"acme": vendor_pki})
    vendor_pki.device("SN-000002").write(tmp_path / "acme", "device")
    root = make_root("TLS root")
    for name in ("gateway", "station"):
        root.issue(name, san=["dns:localhost", "ip:127.0.0.1"]).write(tmp_path, f"tls-{name}")
    write_certificates(tmp_path / "tls-root.pem", root.certificate)
    tls = 'certificate_path = "tls-gateway.pem"\nkey_path = "tls-gateway.key"\n'
    mutual = f'[server.tls]\n{tls}client_ca_paths = ["tls-root.pem"]\n'
    edit(config, "[log]\n", f"{mutual}\n[log]\n")
    trust = ("--tls-ca", tmp_path / "tls-root.pem")
    shown = ("--tls-cert", tmp_path / "tls-station.pem", "--tls-key", tmp_path / "tls-station.key")
    with GatewayProcess(config) as gateway:
        assert gateway.url.startswith("http:")
        url = ("--url", gateway.url.replace("http:", "https:"))
        station = Lab(gateway, tmp_path, tmp_path / "operator" / "root.pem").station[3:]
        first, subject = tmp_path / "first", ("--subject", "CN=enb-1")
        ended = run("enroll", *url, *station, *subject, "--out", tmp_path / "none")
        assert ended.exit_code == 1
        assert "--tls-ca" in ended.stderr
        ended = run("enroll", *url, *station, *subject, *trust, "--out", tmp_path / "none2")
        assert (ended.exit_code, "--tls-cert" in ended.stderr) == (1, True), ended.stderr
        succeeded("enroll", *url, *station, *subject, *trust, *shown, "--out", first)
        succeeded(
            *("renew", *url, *trust, *shown, "--trusted", first / "root.pem"),
            *("--cert", first / "cert.pem", "--key", first / "key.pem", "--out", tmp_path / "next"),
        )
        ended = run("enroll", "--url", gateway.url, *station, *trust, "--out", tmp_path / "x")
        assert (ended.exit_code, "go with an https URL" in ended.stderr) == (2, True)
        ended = run(
            "enroll", *url, *station, "--tls-ca", first / "key.pem", "--out", tmp_path / "x"
        )
        assert (ended.exit_code, ended.stderr.startswith("--tls-ca: ")) == (2, True)


def test_whether_a_gateway_would_take_a_message(lab: Lab, tmp_path: Path) -> None:
    """By the gateway's own steps, with nothing asked of a CA and nothing kept; whether it is of now or of yesterday."""
    config = lab.directory / "gateway.toml"
    saved = tmp_path / "messages"
    names = ("--subject", "CN=enb-6", "--save-messages", saved)
    succeeded(*lab.station, *names, "--out", tmp_path / "new")
    judge = ("show", "--config", config)
    for _ in range(2):  # what is judged leaves nothing behind
        *_, verdict = succeeded(*judge, saved / "1-ir.der").splitlines()
        assert verdict.endswith(
            "UTC: endpoint ran takes it, and asks upstream bundled for CN=enb-6; "
            "it is from CN=SN-000001,O=ACME Radio of acme."
        ), verdict
    ended = run(*judge, "--json", saved / "3-certConf.der")
    (told,) = json.loads(ended.stdout)["verdicts"]
    assert (ended.exit_code, told["accepted"]) == (1, False)
    assert "which the running gateway alone knows" in told["said"]
    ended = run(*judge, saved / "2-ip.der")
    assert (ended.exit_code, "ip is not a request served here" in ended.stdout) == (1, True)
    for fault, told in (
        ("pop", "refuses it with badPOP: "),
        ("no-chain", "refuses it with signerNotTrusted: no path from "),
        ("clock", "refuses it with badTime: messageTime "),
    ):
        wrong = tmp_path / fault
        run(*lab.station, *names[:3], wrong, "--fault", fault, "--out", tmp_path / "none")
        ended = run(*judge, wrong / "1-ir.der")
        assert (ended.exit_code, told in ended.stdout) == (1, True), ended
        lines = [line for line in ended.stdout.splitlines() if line.startswith("verdict, at ")]
        assert ["takes it" in line for line in lines] == (
            [False, True] if fault == "clock" else [False]
        )
    ended = run(*judge, "--endpoint", "other", saved / "1-ir.der")
    assert (ended.exit_code, ended.stderr) == (2, "--endpoint: 'other' is none. Name one of ran\n")
    genm = (
        *lab.station,
        "--trusted",
        lab.root,
        "--request",
        "genm",
        "--save-messages",
        tmp_path / "g",
    )
    succeeded(*genm)
    assert "takes it, and asks upstream bundled" in succeeded(*judge, tmp_path / "g" / "1-genm.der")


def test_messages_are_sent_once_more(lab: Lab, tmp_path: Path) -> None:
    """As they are: to this gateway retransmissions, which are answered as before; what is none, likewise."""
    saved = tmp_path / "messages"
    names = ("--subject", "CN=enb-8", "--save-messages", saved)
    succeeded(*lab.station, *names, "--out", tmp_path / "new")
    replay = ("replay", "--url", lab.gateway.url, saved / "1-ir.der", saved / "3-certConf.der")
    told = succeeded(*replay)
    answers = [line.split()[1] for line in told.splitlines() if line.startswith("PKIMessage ")]
    assert answers == ["ip", "pkiconf"]
    assert f"{saved}/1-ir.der, message 1 is answered:\n" in told
    first, second = json.loads(succeeded(*replay, "--json"))
    as_before = json.loads(succeeded("show", "--json", saved / "2-ip.der", saved / "4-pkiconf.der"))
    assert [first, second] == as_before
    (tmp_path / "cut.der").write_bytes((saved / "1-ir.der").read_bytes()[:-1])
    assert "failInfo: badDataFormat" in succeeded(*replay[:3], tmp_path / "cut.der")
    ended = run("replay", "--url", "http://127.0.0.1:1/", saved / "1-ir.der")
    assert (ended.exit_code, "no connection to" in ended.stderr) == (1, True)


WRONG = {
    Fault.clock: "badTime",
    Fault.no_time: "",
    Fault.pop: "badPOP",
    Fault.protection: "badMessageCheck",
    Fault.short_ids: "badSenderNonce",
    Fault.no_chain: "signerNotTrusted",
    Fault.request_id: "",
    Fault.unknown_vendor: "signerNotTrusted",
}
"""What a lenient gateway says of each; "" where it bears it."""


@pytest.mark.parametrize("fault", Fault)
def test_faults_are_seen(fault: Fault, lab: Lab, tmp_path: Path) -> None:
    """Each does what it says: the gateway refuses with what belongs to it, or bears it."""
    saved = tmp_path / "messages"
    ended = run(
        *(*lab.station, "--trusted", lab.root, "--subject", "CN=enb-5"),
        *("--out", tmp_path / "new", "--fault", fault, "--save-messages", saved),
    )
    if WRONG[fault]:
        assert (ended.exit_code, WRONG[fault] in ended.stderr) == (1, True), ended.stderr
    else:
        assert ended.exit_code == 0, ended.stderr
    sent = PKIMessage.from_der((saved / "1-ir.der").read_bytes())
    assert (sent.header.message_time is None) == (fault is Fault.no_time)
    assert (len(sent.header.transaction_id or b"") == 4) == (fault is Fault.short_ids)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "gateway.example.net:8080", "ftp://x/", "http://", "/cmp"]
)
def test_what_is_no_url(url: str, tmp_path: Path) -> None:
    """Told before anything is tried, with what to write."""
    ended = run("enroll", "--url", url, "--out", tmp_path, "--cert", "x", "--key", "x")
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "is no URL. Write it like http://" in ended.stderr
    if url[0].isalnum() and "//" not in url:
        assert f"http://{url}/.well-known/cmp" in ended.stderr


@pytest.mark.parametrize(
    "options, told",
    [
        ((), "Give --cert and --key, or --secret-file and --reference"),
        (("--secret-file", "x"), "--secret-file goes with --reference and --subject"),
        (("--request", "nonsense"), "'nonsense' is not one of"),
        (("--fault", "laziness"), "'laziness' is not one of"),
        (("--reason", "whim"), "'whim' is not one of"),
    ],
)
def test_options_that_do_not_go_together(
    options: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    """Exit code 2, and no word of the libraries'."""
    ended = run("enroll", "--url", "http://127.0.0.1:1/", "--out", tmp_path, *options)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert "Value error" not in ended.stderr
