"""Uses the feature of one extra, as a program for an environment that has this extra alone."""

FEATURES = {
    "kafka": """
from accesslog.sinks.kafka import KafkaSink
from accesslog.sinks.sink import SinkError
import asyncio

async def main():
    sink = KafkaSink("127.0.0.1:9", "access", 0.2, dict)
    try:
        await sink.open()
    except SinkError as error:  # nothing listens there, so the client library was used
        assert "127.0.0.1:9" in str(error), error
        print("worked")
    await sink.close()

asyncio.run(main())
""",
    "login": """
import sys
from pathlib import Path
import sidecars.demo
sys.path.insert(0, str(Path(sidecars.demo.__file__).parent / "files" / "login"))
from app import application
Path("secret").write_text("s" * 32)
files = {"LOGIN_CLIENT_SECRET_FILE": "secret", "LOGIN_SESSIONS_TOKEN_FILE": "secret"}
urls = {"LOGIN_PUBLIC_URL": "https://shop.example", "LOGIN_METADATA_URL": "https://idp.example/metadata"}
made = application({"LOGIN_CLIENT_ID": "shop", "LOGIN_SESSIONS": "unix:/nowhere", **files, **urls})
assert [route.path for route in made.routes][0] == "/auth/login"
import uvicorn
print("worked")
""",
    "logs": """
import sys
from pathlib import Path
from sidecars.cli import main
Path("access.jsonl").write_text('{"code":500}\\n{"code":200}\\n')
sys.argv = ["sidecars", "logs", "query", "--json", "SELECT count(*) AS found FROM log", "access.jsonl"]
try:
    main()
except SystemExit as error:
    assert not error.code
print("worked")
""",
    "otel": """
from sidecars.services.authz.spans import Spans
from sidecars.settings.authz import TracingSettings
Spans(TracingSettings()).close()
print("worked")
""",
    "parquet": """
from pathlib import Path
from accesslog.sinks.parquet import convert
Path("lines").write_text('{"time":"2026-01-01T00:00:00.000Z","code":200}\\n')
assert convert(Path("lines"), Path("out")) == 1
assert list(Path("out").rglob("*.parquet"))
print("worked")
""",
    "s3": """
from pathlib import Path
from sidecars.process.bundle.s3 import SigningError, signature_headers
from sidecars.settings.bundle import S3Settings
Path("keys").write_text("access_key_id: AKID\\nsecret_access_key: secret\\n")
try:
    headers = signature_headers(S3Settings(region="eu-1", credentials_file=Path("keys")), "https://s3.example/a/b")
except SigningError as error:
    raise ImportError(str(error)) from error
assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKID/")
print("worked")
""",
    "spool": """
from accesslog.spool import frames
frame = frames.Frame("http", "edge", (b"{}\\n",))
assert frames.decode(frames.encode(frame), 0)[0] == frame
print("worked")
""",
    "zstd": """
from pathlib import Path
import zstandard
from accesslog.sinks.rotation import Compression, Rotation, Rotator
Path("access.jsonl").write_text("{}\\n" * 100)
rotation = Rotation(1, None, compression=Compression.ZSTD)
rotator = Rotator(Path("access.jsonl").absolute(), "file", rotation, lambda: 1e9)
rotator.rotate()
rotator.end()
rotator.join()
[packed] = Path().glob("*.zst")
assert zstandard.decompress(packed.read_bytes()) == b"{}\\n" * 100
print("worked")
""",
}
"""The program for each extra; it prints `worked`, and may write into its working folder."""

COMMAND_LINE = "import sys; sys.argv = ['sidecars', *sys.argv[1:]]; from sidecars.cli import main; main()"
"""A program that is the `sidecars` command."""
