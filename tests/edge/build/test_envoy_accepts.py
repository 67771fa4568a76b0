"""Envoy and its official protos accept what is built, and its listener is that of envoy-test/envoy.yaml."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from authz.policy.compile.load import parse_policy
from common.configfile import parse
from common.configfile import read as read_file
from edge.build.build import Built, build
from edge.build.write import write_files
from edge.intent.estate import load_estate
from ratelimit.config import compile_limits
from ratelimit.rules import Options
from sidecars.demo.configuration import http_manager
from sidecars.demo.envoy import find_envoy, scripts_folder
from tests.edge.build.interpreted import content
from tests.edge.estates import EXAMPLE, PLATFORM, TODAY, read, service
from tests.support.authority import Authority
from tests.support.envoy_config import check_configuration

ROOT = Path(__file__).parents[3]
XDS_PROTOS = Path(sys.prefix) / "xds-protos"
RESPONSE = "envoy.service.discovery.v3.DiscoveryResponse"
BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"


def example() -> Built:
    return build(load_estate(EXAMPLE, TODAY))


def everything() -> Built:
    """Return an estate with every kind of path, limit, upstream and listener."""
    paths = "[/, /a/, '/{x}', '/a/{x}/{rest=**}', '/{rest=**}', '/a b+c/{x}', '/caf\u00e9', \"/'\\\"<>[^`|\"]"
    limits = ", ".join(
        f"{{per: {per}, requests: {requests}, period: {period}}}"
        for per in ("subject", "client", "all")
        for requests, period in ((0, "1s"), (5, "2h"), (7, "month"))
    )
    caller = "who: {allow: authenticated}"
    role = "who: {allow: {roles: [r]}, deny: {subjects: [s]}, client: [10.0.0.0/8]}"
    routes = (
        f"{{id: paths, paths: {paths}, {caller}, limits: [{limits}, {{requests: 5, burst: 9}}]}}",
        f"{{id: methods, methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS], paths: [/m], {caller}}}",
        f"{{id: one, methods: [PURGE], paths: [/m], {role}}}",
    )
    upstreams = (
        "'up.internal:443', tls: true",
        "'192.0.2.1:443', tls: true, http2: true",
        "'[2001:db8::1]:80', http2: true",
    )
    services = [
        service(*routes, name=f"s{number}", hosts=f"h{number}.example", owner="three").replace(
            "'up:80'", upstream
        )
        for number, upstream in enumerate(upstreams)
    ]
    wildcards = service(*routes, name="wild", hosts="'*.w.example', '*.v.w.example', '[::1]'", owner="three")
    everywhere = service(
        "{id: any, paths: ['/x/{y}'], who: {allow: anyone}}", name="any", hosts="'*.any', any"
    )
    teams = "domain: edge\nteams: {one: {owns: [any, '*.any']}, three: {owns: ['*.example', '[::1]']}}\n"
    platform = f"{teams}envoy: {{trusted_hops: 1, authz: ['unix:/a', 'b:1'], listen: '[::]:443'}}\n"
    return build(read(*services, wildcards, everywhere, platform=platform))


@pytest.fixture(scope="module", params=[example, everything])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    write_files(request.param(), folder)
    return folder


def test_official_protos_know_every_field(folder: Path) -> None:
    files = [BOOTSTRAP, "envoy.json", BOOTSTRAP, "envoy-files.json"]
    for name in ("listeners", "listeners-files", "routes", "clusters"):
        files += [RESPONSE, f"xds/{name}.json"]
    assert read_by_protos(folder, *files) == "ok\n"


def test_the_sidecars_load_it() -> None:
    built = everything()
    policy = parse_policy(built.files["policy.json"].decode(), "policy.json")
    limits = compile_limits([parse(built.files["limits.json"].decode(), "limits.json")], Options())
    assert policy.revision == limits.revision == built.revision
    assert len(limits.rules) == 4 * 10


def test_a_field_that_official_protos_do_not_know_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"static_resources": {"listeners": [{"no_such_field": 1}]}}')
    assert 'no field named "no_such_field"' in read_by_protos(tmp_path, BOOTSTRAP, "a.json")


def read_by_protos(folder: Path, *files: str) -> str:
    assert XDS_PROTOS.is_dir(), f"{XDS_PROTOS} is missing; `make test` installs it"
    program = ROOT / "tests" / "support" / "protos" / "read_xds.py"
    answer = subprocess.run(
        [sys.executable, str(program), *files],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env={"PYTHONPATH": str(XDS_PROTOS)},
    )
    assert not answer.stderr, answer.stderr
    return answer.stdout


@pytest.mark.envoy
async def test_envoy_accepts_a_listener_with_tls(tmp_path: Path) -> None:
    pair = Authority("edge").sign("edge.example")
    certificate, key = tmp_path / "edge.pem", tmp_path / "edge.key"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    tls = f"tls: {{certificate_file: {certificate}, key_file: {key}}}"
    write_files(build(read(service(), platform=f"{PLATFORM}envoy: {{{tls}}}\n")), tmp_path)
    envoy = find_envoy(os.environ, scripts_folder())
    assert await check_configuration(envoy, tmp_path / "envoy.json") == ""


@pytest.mark.envoy
async def test_envoy_accepts_it_without_a_warning(folder: Path) -> None:
    assert await check_configuration(find_envoy(os.environ, scripts_folder()), folder / "envoy.json") == ""


def test_the_listener_has_every_setting_of_the_example_for_people() -> None:
    """envoy-test/envoy.yaml has the reason for each; what is built adds the revision and other routes."""
    ours = content(example(), "envoy.json")
    theirs = read_file(ROOT / "envoy-test" / "envoy.yaml").data
    [listener], people = ours["static_resources"]["listeners"], theirs["static_resources"]["listeners"][0]
    manager, expected = http_manager(listener), http_manager(people)
    tags = manager["access_log"][0]["typed_config"]["common_config"]["custom_tags"]
    assert tags.pop()["tag"] == "edge_revision"
    for one in (manager, expected):
        del one["route_config"]
    assert manager == expected
    assert listener["per_connection_buffer_limit_bytes"] == people["per_connection_buffer_limit_bytes"]
    assert ours["overload_manager"] == theirs["overload_manager"]
    for name in ("authz", "ratelimit", "accesslog"):
        built, for_people = (cluster(one, name) for one in (ours, theirs))
        assert {**built, "load_assignment": {}, "type": ""} == {
            **for_people,
            "load_assignment": {},
            "type": "",
        }


def cluster(configuration: Any, name: str) -> dict[str, Any]:
    [found] = [one for one in configuration["static_resources"]["clusters"] if one["name"] == name]
    assert isinstance(found, dict)
    return found
