"""Bundles in a private bucket: moto verifies the signatures of requests, as S3 does."""

import importlib.util
import logging
import urllib.request
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from authz.credentials.core.http import FetchError
from sidecars.process.bundle.source import Fetched, fetch
from sidecars.settings.bundle import BundleSettings
from tests.support.bundle_server import BundleServer

NEEDED = ("boto3", "flask", "flask_cors", "moto")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra broker: {', '.join(MISSING)}")

REGION = "eu-central-1"
OBJECT = "releases of edge/a+b.tar.gz"
PATH = "/edge/releases%20of%20edge/a%2Bb.tar.gz"
READS = """{
  "Version": "2012-10-17",
  "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]
}"""


class Bucket:
    """A store that refuses unsigned requests, and the keys of a user who may read."""

    def __init__(self, url: str, keys: dict[str, str]) -> None:
        self.url, self.keys = url, keys

    def settings(self, folder: Path, **changes: str) -> BundleSettings:
        file = folder / "keys"
        lines = {"access_key_id": self.keys["AccessKeyId"], "secret_access_key": self.keys["SecretAccessKey"]}
        file.write_text("".join(f"{name}: {value}\n" for name, value in (lines | changes).items()))
        return settings(self.url + PATH, file)


def settings(url: str, file: Path) -> BundleSettings:
    given: dict[str, Any] = {
        "url": url,
        "s3": {"region": REGION, "credentials_file": file},
        "folder": "/bundles",
        "signature_required": False,
        "allow_http": True,
        "allow_addresses": ("127.0.0.0/8",),
        "timeout_seconds": 20,
    }
    return BundleSettings(**given)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    given: dict[str, Any] = {
        "endpoint_url": url,
        "region_name": REGION,
        "aws_access_key_id": "first",
        "aws_secret_access_key": "first",
    }
    iam, s3 = boto3.client("iam", **given), boto3.client("s3", **given)
    iam.create_user(UserName="edge")
    iam.put_user_policy(UserName="edge", PolicyName="reads", PolicyDocument=READS)
    keys = iam.create_access_key(UserName="edge")["AccessKey"]
    s3.create_bucket(Bucket="edge", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="edge", Key=OBJECT, Body=b"the bundle")
    verify_after(url, 0)
    try:
        yield Bucket(url, keys)
    finally:
        verify_after(url, inf)
        server.stop()


def verify_after(url: str, requests: float) -> None:
    """Make moto verify signatures and permissions after that many requests."""
    asked = urllib.request.Request(f"{url}/moto-api/reset-auth", str(requests).encode())
    asked.add_header("content-type", "text/plain")
    with urllib.request.urlopen(asked, timeout=20):
        pass


async def got(given: BundleSettings, etag: str = "") -> Fetched:
    return await fetch(given, etag=etag, max_bytes=1024)


async def test_a_signed_request_gets_the_bundle_and_304_while_it_is_the_same(
    bucket: Bucket, tmp_path: Path
) -> None:
    given = bucket.settings(tmp_path)
    first = await got(given)
    assert first.body == b"the bundle"
    assert (await got(given, first.etag)).body is None


async def test_another_key_or_none_gets_nothing(bucket: Bucket, tmp_path: Path) -> None:
    for wrong in ({"secret_access_key": "other"}, {"access_key_id": "AKIAOTHER"}):
        with pytest.raises(FetchError, match="HTTP status 403"):
            await got(bucket.settings(tmp_path, **wrong))
    unsigned = bucket.settings(tmp_path).model_copy(update={"s3": None})
    with pytest.raises(FetchError, match="HTTP status 403"):
        await got(unsigned)


async def test_keys_are_read_for_each_request_and_may_be_temporary(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    with BundleServer() as server:
        server.put("/a", b"one")
        for number in (1, 2):
            file.write_text(f"access_key_id: K{number}\nsecret_access_key: s\nsession_token: t{number}\n")
            await got(settings(f"{server.url}/a", file))
    assert [headers["x-amz-security-token"] for headers in server.asked] == ["t1", "t2"]
    for number, headers in enumerate(server.asked, 1):
        assert headers["authorization"].startswith(f"AWS4-HMAC-SHA256 Credential=K{number}/")
        assert f"/{REGION}/s3/aws4_request, SignedHeaders=host;" in headers["authorization"]


async def test_a_second_authorization_header_is_a_failed_request(tmp_path: Path) -> None:
    file, more = tmp_path / "keys", tmp_path / "headers"
    file.write_text("access_key_id: K\nsecret_access_key: s\n")
    more.write_text("Authorization: Bearer t\n")
    given = settings("http://127.0.0.1:1/a", file).model_copy(update={"headers_file": more})
    with pytest.raises(FetchError, match="headers_file has the header authorization, which s3 makes"):
        await got(given)


async def test_a_signature_leaves_no_secret_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("access_key_id: K\nsecret_access_key: the-secret\nsession_token: the-token\n")
    with BundleServer() as server, caplog.at_level(logging.DEBUG):
        server.put("/a", b"one")
        await got(settings(f"{server.url}/a", file))
    [headers] = server.asked
    signature = headers["authorization"].rpartition("Signature=")[2]
    assert not [text for text in ("the-secret", "the-token", signature) if text in caplog.text]


@pytest.mark.parametrize(
    "text", [None, "", "access_key_id: a\n", "access_key_id: a\nsecret_access_key: b\nc: d"]
)
async def test_a_file_without_keys_is_a_failed_request(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(FetchError, match="credentials_file"):
        await got(settings("http://127.0.0.1:1/a", file))
