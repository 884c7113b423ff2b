"""What the configuration says of the bundled CA reaches the certificates it issues and the answers it gives."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest
from cryptography import x509

from ra_gateway.app.application import Application
from ra_gateway.app.profiles import ca_profiles
from ra_gateway.cli.setup import write_setup
from ra_gateway.clocks import now
from ra_gateway.cmp.messages import PKIMessage, confirm_wait_time_of
from ra_gateway.config.reading import load, load_ca
from ra_gateway.device.enrollment import Enrollment
from ra_gateway.device.factory import Vendor
from ra_gateway.device.values import DeviceIdentity, Done, RequestOptions
from ra_gateway.errors import ConfigError
from ra_gateway.keys import KEY_KINDS

CRL_URL = "http://pki.example.net/issuing.crl"


@pytest.mark.requirement(98, 153)
async def test_settings_of_the_bundled_ca_reach_what_it_issues(tmp_path: Path) -> None:
    """`crl_url` is the distribution point, and devices are told `confirm_wait_seconds`."""
    vendor = Vendor.found("ACME Radio", clock=now)
    vendor.write(tmp_path / "vendor")
    path = write_setup(
        tmp_path,
        organisation="Example Operator",
        vendors={"acme": ("vendor/root.pem", "vendor/sub.pem")},
        domain=None,
        now=now(),
        port=0,
    )
    text = re.sub(r'crl_url = ".*"', f'crl_url = "{CRL_URL}"', path.read_text())
    text = text.replace("[ca]\n", "[ca]\nconfirm_wait_seconds = 1234\n")
    path.write_text(text.replace("listen_port = 8082", "listen_port = 0"))
    application = Application(load(path), sink=lambda event: None)
    await application.start()
    credential, _ = vendor.make_device("ENB-1")
    enrollment = Enrollment(
        DeviceIdentity(credential),
        KEY_KINDS["p256"](),
        RequestOptions(subject="CN=enb1"),
        clock=now,
        random_octets=secrets.token_bytes,
    )
    before = now()
    answers = []
    der = await enrollment.request()
    while True:
        answers.append((await application.gateway.handle(der, endpoint="ran")).der)
        step = await enrollment.receive(answers[-1])
        if isinstance(step, Done):
            break
        der = step.der
    await application.stop()
    certificate = x509.load_der_x509_certificate(step.certificate.der)
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for point in points for name in point.full_name or ()] == [CRL_URL]
    awaited = confirm_wait_time_of(PKIMessage.from_der(answers[0]).header)
    assert awaited is not None
    assert 1233 <= (awaited - before).total_seconds() <= 1240


def test_a_profile_of_ones_own_comes_from_the_configuration(tmp_path: Path) -> None:
    """It starts from a built-in one; the default profile comes first; URLs of [ca] hold for all."""
    text = f'''[ca]
directory_path = "ca"
ledger_path = "ledger.sqlite"
profile = "small_cells"
crl_url = "{CRL_URL}"

[ca.profiles.small_cells]
base = "enodeb_ipsec"
validity_days = 90
required_subject = ["CN"]
san = ["dns"]
'''
    (tmp_path / "ca.toml").write_text(text)
    profiles = ca_profiles(load_ca(tmp_path / "ca.toml", check_files=False).ca)
    own = profiles["small_cells"]
    assert next(iter(profiles)) == "small_cells"
    assert (own.validity_days, sorted(own.san), own.crl_urls) == (90, ["dns"], (CRL_URL,))
    assert profiles["ne_tls"].crl_urls == (CRL_URL,)
    (tmp_path / "ca.toml").write_text(text.replace("enodeb_ipsec", "enodeb"))
    with pytest.raises(ConfigError, match="there is no profile 'enodeb'"):
        ca_profiles(load_ca(tmp_path / "ca.toml", check_files=False).ca)
