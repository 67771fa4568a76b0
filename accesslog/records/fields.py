"""All fields that a record may have; their names are stable.

A record is flat: text, integers, numbers, booleans and lists of text stand at the top under the names below.
What has names of its own choosing (headers, tags, metadata) is together in one map for each kind, so that no
client and no Envoy setting can invent a top-level name. A field that Envoy left unset is absent; in proto3
a number that is 0 cannot be told from one that was never set, so 0 is absent too, except for `code` and the
numbers in metadata.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_TABLE: Final = """
time                                  text     when the request started, RFC 3339 in UTC with microseconds; the time of receipt if Envoy sent no time
receive_time                          text     when the sidecar read the message with this entry, in the same form
type                                  text     http or tcp
access_log_type                       text     Envoy's AccessLogType: DownstreamEnd, DownstreamPeriodic, TcpConnectionEnd ...
intermediate                          boolean  true: the request has not ended (deprecated by access_log_type)
log_name                              text     log_name of the access logger in Envoy's configuration
node_id                               text     node.id of the Envoy that sent the entry
node_cluster                          text     node.cluster of that Envoy
node_region                           text     node.locality.region
node_zone                             text     node.locality.zone
request_id                            text     x-request-id
stream_id                             text     Envoy's unique id of the stream (HTTP) or connection (TCP)
method                                text     GET, HEAD ...; absent for a method outside RFC 9110 and PATCH
scheme                                text     http or https
authority                             text     the Host or :authority header, user information redacted
path                                  text     the path as routed, without the query
query                                 text     the query without its question mark, secret parameters redacted
original_path                         text     the path before Envoy rewrote it, without the query
original_query                        text     the query of original_path, secret parameters redacted
protocol                              text     HTTP/1.0, HTTP/1.1, HTTP/2 or HTTP/3
port                                  integer  port of the request URL (Envoy does not fill it yet)
user_agent                            text     the User-Agent header
referer                               text     the Referer header, secret parameters redacted
forwarded_for                         text     the X-Forwarded-For header
code                                  integer  HTTP status; 0: no response was sent. Always present for http
code_details                          text     Envoy's reason for the code: via_upstream, ext_authz_denied, rate_limited ...
response_flags                        list     Envoy's short codes, as %RESPONSE_FLAGS% writes them: UF, UH, NR, RL, UAEX ...
client_ip                             text     the address in downstream_remote_address, without the port
downstream_remote_address             text     the client, IP:PORT, [IPV6]:PORT, unix:PATH or envoy://LISTENER/ENDPOINT
downstream_direct_remote_address      text     the peer of the connection, which may be a proxy
downstream_local_address              text     where Envoy accepted the connection
upstream_remote_address               text     the chosen upstream host
upstream_local_address                text     Envoy's end of the upstream connection
route                                 text     route_name
cluster                               text     upstream_cluster
upstream_attempts                     integer  the number of upstream attempts
upstream_transport_failure_reason     text     why the upstream TLS connection failed
downstream_transport_failure_reason   text     why the downstream TLS connection failed
connection_termination_details        text     why Envoy ended the connection (L4)
duration_us                           integer  from the start to the last byte sent
time_to_last_rx_byte_us               integer  start to the last byte received from the client
time_to_first_upstream_tx_byte_us     integer  start to the first byte sent upstream
time_to_last_upstream_tx_byte_us      integer  start to the last byte sent upstream
time_to_first_upstream_rx_byte_us     integer  start to the first byte received from upstream
time_to_last_upstream_rx_byte_us      integer  start to the last byte received from upstream
time_to_first_downstream_tx_byte_us   integer  start to the first byte sent to the client
time_to_last_downstream_tx_byte_us    integer  start to the last byte sent to the client
request_headers_bytes                 integer  size of the request headers as the client sent them
request_body_bytes                    integer  size of the request body
response_headers_bytes                integer  size of the response headers sent
response_body_bytes                   integer  size of the response body sent
downstream_header_bytes_received      integer  header bytes on the wire, from the client
downstream_header_bytes_sent          integer  header bytes on the wire, to the client
upstream_header_bytes_received        integer  header bytes on the wire, from upstream
upstream_header_bytes_sent            integer  header bytes on the wire, to upstream
downstream_wire_bytes_received        integer  all bytes on the wire, from the client
downstream_wire_bytes_sent            integer  all bytes on the wire, to the client
upstream_wire_bytes_received          integer  all bytes on the wire, from upstream
upstream_wire_bytes_sent              integer  all bytes on the wire, to upstream
received_bytes                        integer  tcp: bytes received from the client
sent_bytes                            integer  tcp: bytes sent to the client
tls_version                           text     TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3
tls_cipher                            text     IANA name of the cipher suite, or its number as 0xC0AC
tls_sni                               text     the server name that the client requested
tls_session_id                        text     TLS session id
tls_ja3                               text     JA3 fingerprint of the client
tls_peer_subject                      text     subject of the client certificate
tls_peer_issuer                       text     issuer of the client certificate
tls_peer_san                          list     its alternative names, uri:... or dns:...
tls_local_subject                     text     subject of the certificate that Envoy presented
tls_local_issuer                      text     issuer of the certificate that Envoy presented
tls_local_san                         list     its alternative names
authz_decision_id                     text     id of the authz decision
authz_rule                            text     the rule that decided
authz_policy_revision                 text     the revision of the policy
authz_subject                         text     the subject of the caller
authz_outcome                         text     allow, deny, error or preflight (a CORS preflight was answered)
authz_reason                          text     why
authz_credential                      text     the kind of credential: jwt, session, api_key ...
authz_shadow_outcome                  text     what the shadow rules would have decided, if different
authz_shadow_rule                     text     the shadow rule that would have decided
authz_duration_us                     integer  how long Envoy waited for authz; needs emit_filter_state_stats and the custom tag of this name
ratelimit_domain                      text     the rate-limit domain
ratelimit_outcome                     text     ok or over_limit
ratelimit_rule                        text     the limit that decided
ratelimit_limit                       integer  how many requests it allows in a period
ratelimit_period                      text     the period of the limit, such as 1m, or month for a calendar month
ratelimit_remaining                   integer  what was left of it, 0 too; absent for a request that passed while the limit was not near (near_limit_ratio)
ratelimit_reason                      text     why
ratelimit_revision                    text     the revision of the limits
ratelimit_hits                        integer  how many hits the request counted as
ratelimit_descriptors                 list     the descriptors of the call: entries, hitsAddend and Envoy's limit override, if any (RESPONSE_DYNAMIC_METADATA)
request_headers                       map      additional_request_headers_to_log
response_headers                      map      additional_response_headers_to_log
response_trailers                     map      additional_response_trailers_to_log
tags                                  map      custom_tags
filter_state                          map      filter_state_objects_to_log; unknown types as {"@type", "base64"}
metadata                              map      dynamic metadata by namespace, without the values in authz_* and ratelimit_*
ratelimit_metadata                    map      free-form metadata of the limits that allowed the request
sample_rate                           number   below 1: one in 1/sample_rate such requests was kept
envoy_sample_rate                     number   sample_rate of the entry (Envoy does not fill it yet)
redacted                              list     the redacted places, such as request_headers.authorization or query.token
not_utf8                              list     the texts with bytes that are not UTF-8: only there such a byte is \\xff, and a backslash is \\\\
truncated                             boolean  true: the record was too large, so long values were truncated or maps omitted
"""  # noqa: E501  # a table is easiest to read with one row on each line


def _read(table: str) -> dict[str, tuple[str, str]]:
    rows = (line.split(None, 2) for line in table.strip().splitlines())
    return {name: (kind, meaning) for name, kind, meaning in rows}


FIELDS: Mapping[str, tuple[str, str]] = MappingProxyType(_read(_TABLE))
"""Every field by its name: its kind (text, integer, number, boolean, list, map) and its meaning."""
