"""What a build writes, and that it is always the same."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from authz.policy.compile.load import parse_policy
from common.configfile import ConfigError, parse
from edge.build.build import Builder, Built, build
from edge.build.write import write_files
from edge.intent.estate import EstateReader, load_estate
from edge.intent.model import Estate
from edge.intent.sources import read_folder
from ratelimit.config import compile_limits
from ratelimit.rules import Options
from tests.edge.build.interpreted import content, envoy_route, extensions, route_configuration
from tests.edge.estates import ANYONE, EXAMPLE, PLATFORM, TODAY, problems, read, route, service, texts_of


@pytest.fixture(scope="module")
def example() -> Built:
    return build(load_estate(EXAMPLE, TODAY))


def built(*services: str, platform: str = PLATFORM) -> Built:
    return build(read(*services, platform=platform))


def refused(*services: str, platform: str = PLATFORM) -> list[str]:
    with pytest.raises(ConfigError) as error:
        built(*services, platform=platform)
    return [str(problem) for problem in error.value.problems]


def test_the_sidecars_load_what_is_built(example: Built) -> None:
    policy = parse_policy(example.files["policy.json"].decode(), "policy.json")
    limits = compile_limits([parse(example.files["limits.json"].decode(), "limits.json")], Options())
    assert policy.revision == limits.revision == example.revision
    assert [rule.name for rule in policy.rules][:3] == [
        "platform-blocked-networks",
        "accounts.profile",
        "accounts.profile.deny",
    ]


def test_the_revision_is_in_every_file(example: Built) -> None:
    without = {name for name, data in example.files.items() if example.revision.encode() not in data}
    assert without == {"envoy-files.json"}  # which names other files
    assert content(example, "accesslog.json")["revision"] == example.revision
    assert extensions(route_configuration(example)) == {"edge_revision": example.revision}


def test_a_build_has_the_same_bytes_in_every_process() -> None:
    """The order of sets and of hashes differs between processes."""
    code = (
        "from datetime import date; from pathlib import Path; from hashlib import sha256\n"
        "from edge.build.build import build; from edge.intent.estate import load_estate\n"
        f"built = build(load_estate(Path({str(EXAMPLE)!r}), date(2026, 6, 1)))\n"
        "print(sha256(b''.join(built.files.values())).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


def test_layout_comments_and_the_names_of_files_change_nothing() -> None:
    one = texts_of(service(name="a"), service("{id: b, paths: [/one/b], who: {allow: anyone}}", name="b"))
    other = {
        "platform.yaml": f"# why\n{one['platform.yaml']}",
        "services/one/a.yaml": one["services/0.yaml"].replace("owner: one\n", "") + "owner: one\n",
        "services/b.yaml": one["services/1.yaml"].replace(
            "{id: b, paths: [/one/b],", "{paths: [/one/b], id: b,"
        ),
    }
    assert build(EstateReader().read(one, TODAY)).files == build(EstateReader().read(other, TODAY)).files


def test_any_change_of_meaning_changes_the_revision() -> None:
    base = service("{id: a, paths: [/one/a], who: {allow: anyone}}")
    changes = [
        base.replace("anyone", "authenticated"),
        base.replace("/one/a", "/one/b"),
        base.replace("id: a", "id: b"),
        base.replace("up:80", "up:81"),
        base.replace("who:", "limits: [{requests: 5}], who:"),
        base.replace("who:", "log: {sample: 0.5}, who:"),
    ]
    revisions = {built(text).revision for text in (base, *changes)}
    assert len(revisions) == 1 + len(changes)


def test_a_change_of_a_service_changes_no_listener() -> None:
    """Envoy would close the connections of a listener that changes."""
    old, new = built(service()), built(service("{id: other, paths: [/one/b], who: {allow: anyone}}"))
    resources = [content(one, "xds/listeners.json")["resources"] for one in (old, new)]
    assert resources[0] == resources[1]
    assert old.revision != new.revision


def test_a_builder_that_remembers_builds_what_a_new_one_builds() -> None:
    texts = dict(
        texts_of(service(name="a"), service("{id: b, paths: [/one/b], who: {allow: anyone}}", name="b"))
    )
    reader, builder = EstateReader(), Builder()
    builder.build(reader.read(texts, TODAY))
    texts["services/1.yaml"] = texts["services/1.yaml"].replace("anyone", "authenticated")
    texts["services/2.yaml"] = service("{id: c, paths: [/one/c], who: {allow: anyone}}", name="c")
    del texts["services/0.yaml"]
    estate = reader.read(texts, TODAY)
    assert builder.build(estate).files == build(estate).files


def test_a_change_of_the_platform_reaches_services_that_did_not_change() -> None:
    texts = dict(texts_of(service("{id: a, paths: [/one/a], who: {allow: anyone}}")))
    reader, builder = EstateReader(), Builder()
    builder.build(reader.read(texts, TODAY))
    texts["platform.yaml"] += "overrides: {limits: [{requests: 7}]}\n"
    assert b'"requests_per_unit":7' in builder.build(reader.read(texts, TODAY)).files["limits.json"]


def test_limits_of_teams_share_no_bucket(example: Built) -> None:
    limits = content(example, "limits.json")
    assert [one["value"] for one in limits["descriptors"]] == ["accounts", "checkout", "search"]
    assert {one["key"] for one in limits["descriptors"]} == {"service"}
    actions = [limit["actions"] for route in every_route(example) for limit in route["route"]["rate_limits"]]
    assert {action[0]["generic_key"]["descriptor_key"] for action in actions} == {"service"}


def test_envoy_names_each_limit_that_the_file_has(example: Built) -> None:
    """A descriptor without a limit, or a limit without a descriptor, would never count."""
    named = {
        tuple(map(entry_of, limit["actions"]))
        for route in every_route(example)
        for limit in route["route"]["rate_limits"]
    }
    assert named == set(leaves(content(example, "limits.json")["descriptors"]))


def every_route(built: Built) -> list[Any]:
    return [route for host in route_configuration(built)["virtual_hosts"] for route in host["routes"]]


def entry_of(action: dict[str, Any]) -> tuple[str, ...]:
    if "generic_key" in action:
        return action["generic_key"]["descriptor_key"], action["generic_key"]["descriptor_value"]
    return ("remote_address",) if "remote_address" in action else (action["metadata"]["descriptor_key"],)


def leaves(descriptors: list[Any], path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = []
    for one in descriptors:
        entry = (one["key"], one["value"]) if "value" in one else (one["key"],)
        found += [(*path, entry)] if "rate_limit" in one else leaves(one["descriptors"], (*path, entry))
    return found


def test_a_wildcard_serves_the_hosts_that_have_a_virtual_host_of_their_own() -> None:
    routes = route_configuration(
        built(
            service(
                "{id: w, paths: [/w], who: {allow: anyone}}",
                name="wide",
                owner="two",
                hosts="'*.two.example'",
            ),
            service(
                "{id: e, paths: [/e], who: {allow: anyone}}", name="exact", owner="two", hosts="x.two.example"
            ),
        )
    )
    found = {
        (host, path): (envoy_route(routes, host, "GET", path) or {}).get("name")
        for host in ("x.two.example", "y.two.example")
        for path in ("/w", "/e")
    }
    assert found == {
        ("x.two.example", "/w"): "wide.w",
        ("x.two.example", "/e"): "exact.e",
        ("y.two.example", "/w"): "wide.w",
        ("y.two.example", "/e"): None,
    }


def test_a_path_that_envoy_would_refuse_is_a_problem_of_its_file() -> None:
    [problem] = refused(
        service(f"{{id: a, paths: [/one/a, '/one/{'x' * 90}/{{id}}'], who: {{allow: anyone}}}}")
    )
    assert problem.startswith("services/0.yaml:6: routes[0].paths[1]: /one/xxx")
    assert "a regular expression of 103 instructions for it, and accepts 100" in problem


def test_the_platform_can_allow_longer_ones() -> None:
    long = service(f"{{id: a, paths: ['/one/{'x' * 90}/{{id}}'], who: {{allow: anyone}}}}")
    files = built(long, platform=f"{PLATFORM}envoy: {{max_regex_size: 200}}\n")
    runtime = content(files, "envoy.json")["layered_runtime"]["layers"][0]["static_layer"]
    assert runtime == {"re2": {"max_program_size": {"error_level": 200}}}


def test_a_team_does_not_choose_the_route_of_a_rule() -> None:
    text = "{id: a, paths: [/one/a], who: {allow: anyone, context_extensions: {edge_route: shop.b}}}"
    [problem] = refused(service(text))
    assert "context_extensions.edge_route has the name of the route and cannot be set" in problem


def test_only_files_that_changed_are_written(example: Built, tmp_path: Path) -> None:
    assert set(write_files(example, tmp_path)) == set(example.files)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(
        example.files
    )
    (tmp_path / "limits.json").write_text("edited")
    before = (tmp_path / "policy.json").stat().st_mtime_ns
    assert write_files(example, tmp_path) == ["limits.json"]
    assert (tmp_path / "policy.json").stat().st_mtime_ns == before
    assert (tmp_path / "limits.json").read_bytes() == example.files["limits.json"]


def test_the_estate_of_the_example_has_no_file_that_is_not_read() -> None:
    assert len(read_folder(EXAMPLE)) == 4


def estate_with(envoy: str) -> Estate:
    return read(service(), platform=f"{PLATFORM}envoy: {envoy}\n")


def test_the_platform_says_where_envoy_listens_and_where_the_sidecars_are() -> None:
    authz = "authz: ['unix:/a.sock', '127.0.0.1:9001']"
    estate = estate_with(f"{{listen: '[::1]:8443', trusted_hops: 2, {authz}, ratelimit: 'rl:9002'}}")
    envoy = content(build(estate), "envoy.json")["static_resources"]
    [listener] = envoy["listeners"]
    assert listener["address"] == {"socket_address": {"address": "::1", "port_value": 8443}}
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["xff_num_trusted_hops"] == 2
    clusters = {one["name"]: one for one in envoy["clusters"]}
    assert [
        one["endpoint"]["address"]
        for one in clusters["authz"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ] == [
        {"pipe": {"path": "/a.sock"}},
        {"socket_address": {"address": "127.0.0.1", "port_value": 9001}},
    ]
    assert (clusters["authz"]["type"], clusters["ratelimit"]["type"]) == ("STATIC", "STRICT_DNS")


@pytest.mark.parametrize(
    "address", ["unix:relative", "host", "host:0", "host:70000", ":80", "unix:/" + "x" * 107]
)
def test_an_address_of_a_sidecar_is_a_socket_or_a_host_and_port(address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected unix:/PATH or HOST:PORT"):
        estate_with(f"{{authz: '{address}'}}")


def test_envoy_waits_as_long_as_the_route_its_service_or_the_platform_says() -> None:
    routes = [route(f"/one/{name}", f"{ANYONE}{more}", name) for name, more in TIMEOUTS.items()]
    own = service(*routes, more="timeout: 30s\n")
    other = service(name="other", owner="two", hosts="a.two.example")
    for platform, default in ((PLATFORM, "15s"), (PLATFORM + "defaults: {timeout: 5s}\n", "5s")):
        configuration = route_configuration(built(own, other, platform=platform))
        found = {
            one["name"]: one["route"]["timeout"]
            for host in configuration["virtual_hosts"]
            for one in host["routes"]
        }
        assert found == {"shop.a": "0.5s", "shop.b": "300s", "shop.c": "30s", "other.all": default}


TIMEOUTS = {"a": ", timeout: 500ms", "b": ", timeout: 300s", "c": ""}


@pytest.mark.parametrize("timeout", ["301s", "300001ms", "0s", "1m", "15", "-1s"])
def test_a_timeout_that_envoy_cannot_keep_is_refused(timeout: str) -> None:
    [found] = problems(service(route("/one/a", f"{ANYONE}, timeout: {timeout}")))
    assert found.startswith("services/0.yaml:6: routes[0].timeout: ")
