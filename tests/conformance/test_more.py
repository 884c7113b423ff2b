"""What the configuration says of the bundled CA reaches the certificates it issues and the answers it gives."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from cryptography import x509

from ra_gateway.app import Application, now
from ra_gateway.cli.setup import write_setup
from ra_gateway.cmp.messages import PKIMessage
from ra_gateway.cmp.replies import confirm_wait_time_of
from ra_gateway.config import load
from ra_gateway.device.enrollment import DeviceIdentity, Done, Enrollment, RequestOptions
from ra_gateway.device.factory import Vendor
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
        now=now(),
        port=0,
    )
    settings = f'[ca]\ncrl_url = "{CRL_URL}"\nconfirm_wait_seconds = 1234\n'
    path.write_text(path.read_text().replace("[ca]\n", settings))
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
