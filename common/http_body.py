"""Reads a body of HTTP up to a bound."""

import aiohttp


async def read_at_most(stream: aiohttp.StreamReader, max_bytes: int) -> bytes:
    """The body, or its first `max_bytes`. A single `read` returns only what has arrived so far."""
    body = bytearray()
    while len(body) < max_bytes and (more := await stream.read(max_bytes - len(body))):
        body += more
    return bytes(body)
