"""`config check` finds what the settings lack on the machine they run on, all of it at once."""

import sys
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from sidecars.settings.load import read_settings
from sidecars.settings.machine import on_this_machine, open_to_all
from tests.support.authority import Authority
from tests.support.command import Command

POLICY = "rules: [{name: a, paths: [/a], allow: anyone}]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    authority = Authority("ours")
    for name in ("one", "two"):
        pair = authority.sign(name)
        (tmp_path / f"{name}.pem").write_bytes(pair.certificate)
        (tmp_path / f"{name}.key").write_bytes(pair.key)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "private.pem").write_bytes(Authority("private", identifies=False).certificate)
    (tmp_path / "text").write_text("hello\n")
    key = serialization.load_pem_private_key((tmp_path / "one.key").read_bytes(), None)
    (tmp_path / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return tmp_path / "sidecars.yaml"


def problems(file: Path, text: str) -> list[str]:
    file.write_text(text)
    found = on_this_machine(read_settings(file, {})).problems
    return [str(problem).removeprefix(f"{file}:").replace(f"{file.parent}/", "") for problem in found]


def tls(file: Path, **files: str) -> list[str]:
    listen = [{"address": "127.0.0.1:9001", "tls": files}]
    return problems(file, yaml.safe_dump({"authz": {"listen": listen, "policy": ["policy.yaml"]}}))


@pytest.mark.parametrize(
    ("files", "key", "message"),
    [
        ({"cert_file": "no.pem", "key_file": "one.key"}, "cert_file", "no.pem cannot be read: no such file"),
        ({"cert_file": "one.pem", "key_file": "no.key"}, "key_file", "no.key cannot be read"),
        (
            {"cert_file": "one.pem", "key_file": "two.key"},
            "key_file",
            "is not the key of the first certificate in one",
        ),
        ({"cert_file": "text", "key_file": "one.key"}, "cert_file", "text holds no PEM certificate"),
        ({"cert_file": "one.pem", "key_file": "text"}, "key_file", "text holds no PEM private key"),
        (
            {"cert_file": "one.pem", "key_file": "locked.key"},
            "key_file",
            "that can be used without a password",
        ),
        (
            {"cert_file": "one.pem", "key_file": "one.key", "client_ca_file": "text"},
            "client_ca_file",
            "no PEM cert",
        ),
        (
            {"cert_file": "one.pem", "key_file": "one.key", "client_ca_file": "no"},
            "client_ca_file",
            "cannot be read",
        ),
        (
            {"cert_file": "one.pem", "key_file": "one.key", "client_ca_file": "private.pem"},
            "client_ca_file",
            "the authority CN=private in private.pem lacks the extension Subject Key Identifier",
        ),
    ],
)
def test_tls_files_that_cannot_serve(file: Path, files: dict[str, str], key: str, message: str) -> None:
    [found] = tls(file, **files)
    assert f" authz.listen[0].tls.{key}: " in found
    assert found[0].isdigit()
    assert message in found


def test_tls_files_that_fit_together(file: Path) -> None:
    assert tls(file, cert_file="one.pem", key_file="one.key", client_ca_file="ca.pem") == []


def test_every_folder_that_is_not_there_is_named(file: Path) -> None:
    (file.parent / "file").write_text("")
    text = """\
admin: {listen: 'unix:PLACE/run/admin.sock', port_file: none/port}
authz:
  listen: ['unix:PLACE/run/a.sock', 'unix:PLACE/file', 'unix:@abstract']
  policy: [policy.yaml]
  decisions: {log: {file: logs/decisions}}
accesslog:
  listen: ['unix:PLACE/run/l.sock']
  sinks: [{type: file, path: logs/a, spool: {folder: none/s}}, {type: file, name: b, path: .}]
redis: {url: 'rediss://r:1', password_file: none, ca_file: none, cert_file: one.pem, key_file: two.key}
"""
    found = problems(file, text.replace("PLACE", str(file.parent)))
    assert sorted(found) == sorted(
        [
            "1: admin.listen: the folder run does not exist; create it",
            "3: authz.listen[0]: the folder run does not exist; create it",
            "3: authz.listen[1]: file exists and is not a socket: name another path, or remove it",
            "7: accesslog.listen[0]: the folder run does not exist; create it",
            "9: redis.password_file: none cannot be read: no such file or folder",
            "9: redis.ca_file: none cannot be read: no such file or folder",
            "9: redis.key_file: two.key is not the key of the first certificate in one.pem",
            "8: accesslog.sinks[0].path: the folder logs does not exist; create it",
            "8: accesslog.sinks[0].spool.folder: the folder none does not exist; create it",
            f"8: accesslog.sinks[1].path: {file.parent} is a folder; expected the path of a file",
            "5: authz.decisions.log.file: the folder logs does not exist; create it",
            "1: admin.port_file: the folder none does not exist; create it",
        ]
    )


def test_authorities_for_redis_that_are_none(file: Path) -> None:
    text = "redis: {{url: 'rediss://r', ca_file: {}}}\n"
    assert problems(file, text.format("text")) == ["1: redis.ca_file: text holds no PEM certificate"]
    assert problems(file, text.format("ca.pem")) == []


def test_each_worker_has_its_folder(file: Path) -> None:
    (file.parent / "0").mkdir()
    sink = "{type: file, path: '{worker}/a'}"
    text = f"workers: 2\naccesslog: {{listen: ['unix:PLACE/{{worker}}/s'], sinks: [{sink}]}}\n"
    assert problems(file, text.replace("PLACE", str(file.parent))) == [
        "2: accesslog.listen[0]: the folder 1 does not exist; create it",
        "2: accesslog.sinks[0].path: the folder 1 does not exist; create it",
    ]


def test_what_only_another_sidecar_needs_is_not_asked_for(file: Path) -> None:
    file.write_text(
        "authz: {listen: ['unix:/tmp/a.s'], policy: [policy.yaml]}\n"
        "accesslog: {listen: ['unix:/none/l.s'], sinks: [{type: file, path: /none/a}]}\n"
    )
    reading = read_settings(file, {})
    assert len(on_this_machine(reading).problems) == 2
    assert on_this_machine(reading, ("authz",)).problems == ()


def test_all_addresses_that_are_wanted_twice_are_named_at_once(file: Path) -> None:
    text = """\
admin: {listen: '127.0.0.1:9001'}
authz: {listen: ['0.0.0.0:9001', '127.0.0.1:9002', '[::1]:9001'], policy: [policy.yaml]}
ratelimit: {listen: ['localhost:9002', 'unix:/tmp/x.sock', '127.0.0.1:0'], limits: [l]}
accesslog: {listen: ['127.0.0.2:9002', 'unix:/tmp/x.sock', '127.0.0.1:0']}
"""
    assert problems(file, text) == [
        "2: authz.listen[0]: 0.0.0.0:9001 is taken by admin.listen",
        "3: ratelimit.listen[0]: localhost:9002 is taken by authz.listen[1]",
        "4: accesslog.listen[1]: unix:/tmp/x.sock is taken by ratelimit.listen[1]",
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("admin: {listen: '0.0.0.0:9090'}", "admin.listen"),
        ("admin: {listen: '[::]:9090'}", "admin.listen"),
        ("admin: {listen: '0:9090'}", "admin.listen"),
        ("admin: {listen: '[0::0]:9090'}", "admin.listen"),
        ("{workers: 2, admin: {workers: '[::]:9191'}}", "admin.workers"),
        ("accesslog: {listen: ['0.0:9001']}", "accesslog.listen[0]"),
        ("accesslog: {listen: ['0x0:9001']}", "accesslog.listen[0]"),
        ("accesslog: {listen: ['[0:0:0:0:0:0:0:0]:9001']}", "accesslog.listen[0]"),
        ("accesslog: {listen: ['[::ffff:0.0.0.0]:9001']}", "accesslog.listen[0]"),
        ("accesslog: {listen: ['[::1]:9001', 'localhost:9002']}", ""),
        ("accesslog: {listen: ['0.0.0.0:9001']}", "accesslog.listen[0]"),
        ("accesslog: {listen: ['127.0.0.1:9001', '192.0.2.1:9001', 'unix:/tmp/x.sock']}", ""),
        ("accesslog: {listen: [{address: '0.0.0.0:9001', tls: {cert_file: a, key_file: b}}]}", ""),
    ],
)
def test_ports_open_to_every_network_are_warned_of(file: Path, text: str, key: str) -> None:
    file.write_text(text)
    reading = read_settings(file, {})
    assert reading.settings is not None
    found = [str(reading.locate(path, message)) for path, message in open_to_all(reading.settings)]
    assert [f"{file}:1: {key}: " in one for one in found] == [True] * bool(key)


def test_check_offline_looks_at_nothing_of_the_machine(sidecars: Command, file: Path) -> None:
    file.write_text(
        "authz: {listen: [{address: '[::]:9001', tls: {cert_file: a, key_file: b}}], policy: [policy.yaml]}\n"
        "admin: {listen: '0.0.0.0:9090'}\n"
        "accesslog: {listen: ['unix:/none/l.sock'], sinks: [{type: file, path: /none/access.jsonl}]}\n"
    )
    here = sidecars("config", "check", file)
    assert (here.code, here.out) == (1, "")
    assert len([line for line in here.err.splitlines() if not line.startswith("warning: ")]) == 4
    there = sidecars("config", "check", "--offline", file)
    assert there.code == 0
    [warning] = there.err.splitlines()
    assert warning.startswith(
        f"warning: {file}:2: admin.listen: 0.0.0.0:9090 is open to every network without TLS"
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "authz: {listen: ['unix:/tmp/x'], policy: [none.yaml]}",
            "1: authz.policy[0]: none.yaml: no such",
        ),
        (
            "ratelimit: {listen: ['unix:/tmp/x'], limits: [none]}",
            "1: ratelimit.limits[0]: none: cannot be read",
        ),
    ],
)
def test_a_file_that_is_not_there_is_reported_where_it_is_named(
    sidecars: Command, file: Path, text: str, found: str
) -> None:
    file.write_text(text)
    result = sidecars("config", "check", file)
    assert result.code == 1
    assert found in result.err.replace(f"{file}:", "").replace(f"{file.parent}/", "")


def test_a_file_that_a_policy_names_is_reported_where(sidecars: Command, file: Path) -> None:
    (file.parent / "policy.yaml").write_text(
        "credentials:\n"
        "  issuers:\n"
        "    - {issuer: 'https://a.example', audiences: [x], jwks: {file: no.json}}\n"
        "  api_keys: {file: no-keys.yaml}\n" + POLICY
    )
    file.write_text("authz: {listen: ['unix:/tmp/x'], policy: [policy.yaml]}")
    result = sidecars("config", "check", file)
    found = result.err.replace(f"{file.parent}/", "")
    assert result.code == 1
    assert "policy.yaml:3: credentials.issuers[0].jwks.file: no.json: cannot be read: no such file" in found
    assert "policy.yaml:4: credentials.api_keys.file: no-keys.yaml: cannot be read: no such file" in found


def test_what_needs_another_part_is_reported_where_it_is_asked_for(
    sidecars: Command, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    (file.parent / "limits.yaml").write_text("domain: edge\n")
    file.write_text(
        "authz:\n  listen: ['unix:/tmp/a']\n  policy: [policy.yaml]\n  tracing: {}\n"
        "ratelimit:\n  listen: ['unix:/tmp/r']\n  limits: [limits.yaml]\n  store: redis\n"
    )
    result = sidecars("config", "check", file)
    assert result.code == 1
    tracing, store = result.err.splitlines()
    assert tracing.startswith(
        f"{file}:4: authz.tracing: needs the extra otel (in a clone: pip install '.[otel]')"
    )
    assert tracing.endswith(": opentelemetry is not installed")
    assert store == f"{file}:8: ratelimit.store: store: redis needs the section redis with the url of a Redis"
