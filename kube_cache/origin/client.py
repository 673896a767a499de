"""Creates botocore's S3 client for one scheme: credentials, endpoint, addressing, timeouts.

botocore knows credentials and their refresh, endpoints, regions, redirects and config files; nobody should write those
again. This module sets only what botocore cannot know: what GCS and other servers than AWS want, and how long a caller
waits.
"""

from __future__ import annotations

import os
import ssl
from typing import Any, Final

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.httpsession import get_cert_path

from kube_cache.origin import botocore_data
from kube_cache.origin.settings import OriginSettings

# Two attempts must end before the 10 s in which the caller promised a heartbeat.
_CONNECT_TIMEOUT_S: Final = 2
_READ_TIMEOUT_S: Final = 4
_MAX_ATTEMPTS: Final = 2
_OTHER_CA_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_MAX_CONNECTIONS: Final = 64  # arbitrary; more than the threads that ask at once, so that none waits for a connection


def create_session() -> botocore.session.Session:
    session = botocore.session.Session()
    session.register_component("data_loader", botocore_data.loader(session.get_config_variable("data_path")))
    # Every SDK but botocore reads AWS_REGION.
    session.session_var_map["region"] = ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
    # Left alone, botocore honours REQUESTS_CA_BUNDLE for S3 only, and SSL_CERT_FILE not at all.
    if bundle := session.get_config_variable("ca_bundle") or _other_ca_bundle():
        _check_ca_bundle(bundle)
        session.set_config_variable("ca_bundle", bundle)
    return session


def create_client(session: botocore.session.Session, scheme: str, settings: OriginSettings) -> Any:
    """Create the client for `scheme`. Raises botocore's errors, and ValueError for an endpoint that is not a URL."""
    arguments: dict[str, Any] = {}
    if scheme == "gs":
        endpoint: str | None = settings.gs_endpoint
        arguments |= {"endpoint_url": endpoint, "region_name": "auto"}
        if not settings.anonymous:  # never the AWS credentials: they are none of Google's business
            arguments["aws_access_key_id"] = settings.gs_access_key
            arguments["aws_secret_access_key"] = settings.gs_secret_key
    else:
        endpoint = ConfiguredEndpointProvider(
            full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
        ).provide()
        if endpoint and not session.get_config_variable("region"):
            arguments["region_name"] = "us-east-1"  # every server that is not AWS accepts this region
    addressing = settings.addressing
    if addressing == "auto" and endpoint and ".amazonaws." not in endpoint:
        addressing = "path"
    options: dict[str, Any] = {"signature_version": UNSIGNED} if settings.anonymous else {}
    options["s3"] = {"addressing_style": addressing}
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _MAX_ATTEMPTS},
        max_pool_connections=_MAX_CONNECTIONS,
        # GCS refuses the checksum headers, and the engine checks what it fetches itself.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        **options,
    )
    return session.create_client("s3", config=config, **arguments)


def missing_credentials(scheme: str, settings: OriginSettings) -> str:
    """Name the settings that requests to the scheme need and that are not given; empty if none is missing."""
    if scheme != "gs" or settings.anonymous:
        return ""
    keys = {"GS_ACCESS_KEY": settings.gs_access_key, "GS_SECRET_KEY": settings.gs_secret_key}
    return " and ".join(f"KUBE_CACHE_ORIGIN__{name}" for name, value in keys.items() if not value)


def _other_ca_bundle() -> str:
    return next((path for name in _OTHER_CA_BUNDLES if (path := os.environ.get(name))), "")


def _check_ca_bundle(path: str) -> None:
    """Raises ValueError: botocore and the engine would each report a bad bundle in words of their own, and later."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise ValueError(
            f"the CA bundle {path!r} cannot be used ({error}); AWS_CA_BUNDLE, {' or '.join(_OTHER_CA_BUNDLES)} must name"
            " a file of certificates in PEM"
        ) from error


def ca_bundle(session: botocore.session.Session) -> str:
    """Return the path of the certificates that botocore trusts, for the engine's own connections."""
    return str(session.get_config_variable("ca_bundle") or get_cert_path(verify=True))
