"""A CMP server that behaves as EJBCA Community Edition 8.2 does, its oddities included.

It keeps no transactions, does not read certConf, takes the last certificate in extraCerts that is no CA's for the
signer's, signs answers with the CA's own key, and names the entity of a kur by the template alone. It shares no
code with the bundled CA; what it and the gateway have in common is the encoding of messages.
"""

from tests.support.ejbca.configuration import (
    CA,
    EMPTY,
    ENDUSER,
    Alias,
    CertificateProfile,
    EndEntityProfile,
    Role,
    ca_id,
)
from tests.support.ejbca.database import EndEntity, Status, StoredCertificate
from tests.support.ejbca.server import Ejbca, Revocation
from tests.support.ejbca.setup import (
    CLIENT_ALIAS,
    ISSUING_CA,
    PROFILE,
    RA_ALIAS,
    RIGHTS,
    VENDOR_ALIAS,
    VENDOR_CA,
    make_ejbca,
    register,
    upstream_of,
)
from tests.support.ejbca.web import serve

__all__ = [
    "CA",
    "CLIENT_ALIAS",
    "EMPTY",
    "ENDUSER",
    "ISSUING_CA",
    "PROFILE",
    "RA_ALIAS",
    "RIGHTS",
    "VENDOR_ALIAS",
    "VENDOR_CA",
    "Alias",
    "CertificateProfile",
    "Ejbca",
    "EndEntity",
    "EndEntityProfile",
    "Revocation",
    "Role",
    "Status",
    "StoredCertificate",
    "ca_id",
    "make_ejbca",
    "register",
    "serve",
    "upstream_of",
]
