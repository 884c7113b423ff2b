"""What the fork server of `tests.support.commands` has done before its first child: imported by it alone."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

from ra_gateway.app.ca import ca_keys
from ra_gateway.app.profiles import ca_profiles
from ra_gateway.ca.lint import require_clean
from ra_gateway.config.reading import load
from tests.support import commands  # noqa: F401 - what children run
from tests.support.commandline import remember_program
from tests.support.linting import remember_findings, watch
from tests.support.pki import make_vendor_pki
from tests.support.setups import make_setup

remember_program()
remember_findings()
watch()
with tempfile.TemporaryDirectory() as _directory:
    _config = load(make_setup(Path(_directory, "site"), vendors={"acme": make_vendor_pki("ACME")}))
    assert _config.ca is not None
    require_clean(ca_profiles(_config.ca).values(), ca_keys(_config.ca).issuers[0])
gc.collect()
gc.freeze()  # children look through what they make alone
