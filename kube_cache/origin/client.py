"""Creates botocore's S3 client for one scheme: credentials, endpoint, addressing, timeouts.

botocore knows credentials and their refresh, endpoints, regions, redirects and config files; nobody should write those
again. This module sets only what botocore cannot know: what GCS and other servers than AWS want, and how long a caller
waits.
"""

from __future__ import annotations

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
_MAX_CONNECTIONS: Final = 64  # arbitrary; more than the threads that ask at once, so that none waits for a connection


def create_session() -> botocore.session.Session:
    session = botocore.session.Session()
    session.register_component("data_loader", botocore_data.loader(session.get_config_variable("data_path")))
    # Every SDK but botocore reads AWS_REGION.
    session.session_var_map["region"] = ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)
    return session


def create_client(session: botocore.session.Session, scheme: str, settings: OriginSettings) -> Any:
    """Create the client for `scheme`. Raises botocore's errors, and ValueError for an endpoint that is not a URL."""
    arguments: dict[str, Any] = {}
    if scheme == "gs":
        endpoint: str | None = settings.gs_endpoint
        arguments |= {"endpoint_url": endpoint, "region_name": "auto"}
        if settings.gs_access_key:
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


def ca_bundle(session: botocore.session.Session) -> str:
    """Return the path of the certificates that botocore trusts, for the engine's own connections."""
    return str(session.get_config_variable("ca_bundle") or get_cert_path(verify=True))
