"""What is built from intent, as a bundle: every sidecar serves it, under one revision."""

from pathlib import Path

from tests.support.bundle_server import BundleServer
from tests.support.bundles import Signer
from tests.support.command import plain_command
from tests.support.running import SIDECARS, Running

ESTATE = Path(__file__).parents[4] / "examples" / "edge"


def run(*arguments: str | Path) -> None:
    done = plain_command(*map(str, arguments))
    assert done.returncode == 0, done.stderr


def test_policy_limits_and_log_rules_have_the_revision_of_the_bundle(tmp_path: Path) -> None:
    signer, bundle = Signer(tmp_path), tmp_path / "edge.tar.gz"
    run("edge", "build", ESTATE, "--out", tmp_path / "built", "--date", "2026-11-29")
    signing = ("--key", signer.private, "--key-id", "release")
    run("bundle", "build", tmp_path / "built", "-o", bundle, "--sequence", "1", *signing)
    revision = (tmp_path / "built" / "revision").read_text().strip()
    (tmp_path / "hash.key").write_text("a key of more than sixteen bytes")
    with BundleServer() as server:
        server.put("/edge.tar.gz", bundle.read_bytes())
        settings = {
            "bundle": {
                "url": f"{server.url}/edge.tar.gz",
                "allow_http": True,
                "allow_addresses": ["127.0.0.0/8"],
                "folder": "state",
                "keys": {"release": signer.public.name},
            },
            "authz": {"listen": [f"unix:{tmp_path}/a"], "policy": ["{bundle}/policy.json"]},
            "ratelimit": {"listen": [f"unix:{tmp_path}/r"], "limits": ["{bundle}/limits.json"]},
            "accesslog": {
                "listen": [f"unix:{tmp_path}/l"],
                "route_rules": ["{bundle}/accesslog.json"],
                "redact": {"hash_key_file": "hash.key"},
            },
        }
        with Running(tmp_path, settings, program=SIDECARS) as running:
            config = running.wait_until_ready().config()
    assert config["bundle"]["revision"] == revision
    states = {name: one["state"] for name, one in config["sidecars"].items()}
    assert states["authz"]["revision"] == states["ratelimit"]["revision"] == revision
    assert states["accesslog"]["route_rules_revision"] == revision
