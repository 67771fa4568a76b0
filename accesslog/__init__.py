"""What happened? Envoy's access-log entries as flat, redacted JSON lines, every one of them accounted for.

A message passes `intake` (record, sample, redact, encode) and `pipeline` on its way to the `sinks`; `ledger`
holds the accounts and `fields` the names that a record may have.
"""
