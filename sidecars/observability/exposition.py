"""A page of metrics."""

import re
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sidecars.observability.protobuf_exposition import CONTENT_TYPE, is_wanted, protobuf_page

_ENVOYPROXY: Final = "ratelimit_service_"
"""How the names of envoyproxy/ratelimit begin."""

_UNTYPED: Final = re.compile(rb"^(# TYPE ratelimit_service_\w+) untyped$", re.MULTILINE)


def metrics_page(
    registry: CollectorRegistry, accept: str, *, plain_counters: bool = False
) -> tuple[bytes, str]:
    """The metrics of `registry` in the format that `accept` asks for, and its content type.

    `plain_counters`: show the counters that are named as in envoyproxy/ratelimit as counters, in the text
    format. prometheus-client can show a counter only under a name that ends in `_total`.
    """
    if is_wanted(accept):
        return protobuf_page(registry, _ENVOYPROXY if plain_counters else ""), CONTENT_TYPE
    encode, content_type = choose_encoder(accept)
    page = encode(registry)
    if plain_counters and content_type.startswith("text/plain"):
        page = _UNTYPED.sub(rb"\1 counter", page)
    return page, content_type
