"""Rate limits in the configuration format of envoyproxy/ratelimit, without gRPC.

`config.load_limits` reads the YAML, `limiter.Limiter` plans and decides requests, `stores` keep the buckets,
`buckets` is the arithmetic alone (for throttling whatever else needs it).
"""
