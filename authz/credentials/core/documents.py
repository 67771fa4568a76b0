"""What other servers answer in place of the JSON that is expected of them."""


def looks_like(body: bytes) -> str:
    """What a body that is no JSON looks like, in words. Its text may hold secrets."""
    if not body.strip():
        return "empty"
    if body.lstrip().startswith(b"<"):
        return "HTML or XML"
    if body.lstrip().startswith(b"eyJ"):
        return "a JWT"
    if body.startswith(b"\xef\xbb\xbf"):
        return "text with a byte order mark"
    return f"{len(body)} bytes of something else"
