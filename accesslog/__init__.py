"""What happened? Envoy's access-log entries as flat, redacted JSON lines, every one of them accounted for.

`records` turns the bytes of a message into lines (decoder, record, sample, redact, encode) and counts them;
`pipeline` hands the lines to the `sinks`.
"""
