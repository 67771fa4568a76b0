"""The ratelimit sidecar shows values that look like secrets as hashes."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from common.configfile import ConfigError
from sidecars.services.ratelimit import build
from tests.support.ratelimiting import answered, dependencies, request, settings_with


class TestHashValues:
    SECRET = "s3cr3t-of-a-client"
    LIMITS = "domain: edge\ndescriptors: [{key: api_key, rate_limit: {unit: minute, requests_per_unit: 3}}]\n"

    def entries(self, tmp_path: Path, **hash_values: Any) -> str:
        (tmp_path / "edge.yaml").write_text(self.LIMITS)
        settings = settings_with(tmp_path / "edge.yaml", hash_values=hash_values)
        response = answered(build(settings, dependencies()), request({"api_key": self.SECRET}))
        [descriptor] = MessageToDict(response)["dynamicMetadata"]["descriptors"]
        [entry] = descriptor["entries"]
        return str(entry)

    def test_the_access_log_gets_a_hash_by_default(self, tmp_path: Path) -> None:
        assert self.entries(tmp_path).startswith("api_key=sha256:")

    def test_keys_can_be_allowed_and_hashes_have_a_key(self, tmp_path: Path) -> None:
        assert self.entries(tmp_path, allow=["api_key"]) == f"api_key={self.SECRET}"
        (tmp_path / "key").write_bytes(b"0123456789abcdef\n")
        assert self.entries(tmp_path, hmac_key_file=tmp_path / "key").startswith("api_key=hmac:")

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"short", "a key needs at least 16 bytes, found 5"), (None, "cannot be read")],
    )
    def test_a_file_without_a_key_is_a_problem(
        self, tmp_path: Path, content: bytes | None, problem: str
    ) -> None:
        if content is not None:
            (tmp_path / "key").write_bytes(content)
        with pytest.raises(ConfigError, match=problem):
            self.entries(tmp_path, hmac_key_file=tmp_path / "key")


def test_a_secret_in_a_limits_file_is_found_and_counted_whatever_comes_between(tmp_path: Path) -> None:
    secret = "s3cr3t-of-a-client"
    (tmp_path / "edge.yaml").write_text(
        f"domain: edge\ndescriptors: [{{key: api_key, value: {secret}, rate_limit: &l "
        "{unit: day, requests_per_unit: 3}}, {key: api_key, rate_limit: *l}]\n"
    )
    sidecar = build(settings_with(tmp_path / "edge.yaml"), dependencies())
    codes = []
    for _ in range(4):
        codes.append(answered(sidecar, request({"api_key": secret})).overall_code)
        # More than are remembered by their bytes.
        assert {answered(sidecar, request({"api_key": f"{number}"})).overall_code for number in range(600)}
    assert codes == [1, 1, 1, 2]
