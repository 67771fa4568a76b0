"""One command that demonstrates the suite: a whole edge on this machine, and requests through it."""


def run(*, once: bool, port: int) -> int:
    """The exit code of `sidecars demo`: see `sidecars.demo.demo.run`."""
    # Not at import, because `python -m sidecars.demo.envoy`, for example, works without the sidecars.
    from sidecars.demo import demo

    return demo.run(once=once, port=port)
