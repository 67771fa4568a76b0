"""The environment of envoyproxy/ratelimit as settings: `sidecars run ratelimit --compat`."""
