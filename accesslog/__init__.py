"""Turns Envoy's access log entries into flat, redacted JSON lines, and accounts for every one of them.

`records` turns the bytes of a message into lines (decoder, record, sample, redact, encode) and counts them;
`pipeline` hands the lines to the `sinks`.
"""
