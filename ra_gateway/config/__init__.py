"""The configuration file: what may stand in it, and everything that is wrong with one.

`load` reads TOML into frozen pydantic models. Shape, ranges, cross-references, and existence and
permissions of files are checked here, all of them before anything is reported; certificates are
parsed by `app`, not here.

There are two kinds of checks. What one value must be stands in `values`, and at its field in one of
the `tables` (`service_tables`, `upstream_tables` and `ca_tables` hold some of them). What several
values must be together stands in one of the `rules` over the raw tables, so that it is reported even
when another value of the same table is wrong. `telling` words the problems, `reading` puts it together.

Secrets never stand in the file: it names files that only their owner may read. The text of a
`Problem` therefore never repeats a value that might be a secret.
"""

from ra_gateway.config.ca_tables import (
    CAClientConfig,
    CAConfig,
    CAProfileConfig,
    CAServerConfig,
    CAStatusConfig,
)
from ra_gateway.config.dialects import DialectConfig
from ra_gateway.config.reading import is_of_ca_alone, load, load_ca, parse
from ra_gateway.config.service_tables import LogConfig, ServerConfig, StoreConfig
from ra_gateway.config.tables import (
    CAServiceConfig,
    EndpointConfig,
    GatewayConfig,
    GenmConfig,
    IdentityConfig,
    InventoryConfig,
    MACConfig,
    RegistrationAuthoritiesConfig,
    RouteConfig,
    VendorConfig,
)
from ra_gateway.config.trust_tables import (
    AlgorithmsConfig,
    OperatorConfig,
    RAConfig,
    RevocationConfig,
)
from ra_gateway.config.upstream_tables import (
    AnswerTrust,
    BundledUpstream,
    CMPHTTPUpstream,
    OverHTTP,
    PluginUpstream,
    RestUpstream,
    StepCAUpstream,
    UpstreamConfig,
    VaultUpstream,
)
from ra_gateway.config.values import (
    CA_MATERIAL,
    DEFAULT_SIGNATURES,
    LEGACY_SIGNATURES,
    OPERATOR_DOMAIN,
    PLACEHOLDERS,
    WELL_KNOWN_PATH,
    BodyName,
    CurveName,
    SignatureName,
)

__all__ = [
    "CA_MATERIAL",
    "DEFAULT_SIGNATURES",
    "LEGACY_SIGNATURES",
    "OPERATOR_DOMAIN",
    "PLACEHOLDERS",
    "WELL_KNOWN_PATH",
    "AlgorithmsConfig",
    "AnswerTrust",
    "BodyName",
    "BundledUpstream",
    "CAClientConfig",
    "CAConfig",
    "CAProfileConfig",
    "CAServerConfig",
    "CAServiceConfig",
    "CAStatusConfig",
    "CMPHTTPUpstream",
    "CurveName",
    "DialectConfig",
    "EndpointConfig",
    "GatewayConfig",
    "GenmConfig",
    "IdentityConfig",
    "InventoryConfig",
    "LogConfig",
    "MACConfig",
    "OperatorConfig",
    "OverHTTP",
    "PluginUpstream",
    "RAConfig",
    "RegistrationAuthoritiesConfig",
    "RestUpstream",
    "RevocationConfig",
    "RouteConfig",
    "ServerConfig",
    "SignatureName",
    "StepCAUpstream",
    "StoreConfig",
    "UpstreamConfig",
    "VaultUpstream",
    "VendorConfig",
    "is_of_ca_alone",
    "load",
    "load_ca",
    "parse",
]
