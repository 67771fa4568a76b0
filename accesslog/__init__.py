"""Turns Envoy's access log entries into flat, redacted JSON lines, and accounts for every one of them.

`wire` reads the messages and makes a record of each entry, `records` turns them into lines (sample, redact,
encode) and counts them, and `pipeline` hands the lines to the `sinks`.
"""
