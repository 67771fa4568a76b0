"""Writes docs/reference/ and docs/metrics.md from the code; `--check` compares them instead."""

import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics_core import Metric
from typer.main import get_command

from authz.policy.model import PolicyFile
from edge.intent.platform_file import PlatformFile
from edge.intent.service_file import ServiceFile
from release.dependencies import dependencies
from sidecars.cli import serve
from sidecars.cli.app import app
from sidecars.observability.metric_facts import METRIC_FACTS, metric_name
from sidecars.process.lifecycle import Process
from sidecars.settings.load import read_settings
from sidecars.settings.root import Settings
from sidecars.workers.scrapes import workers_that_answered
from sidecars.workers.supervisor import WorkerCollector

FOLDER = Path(__file__).parent
OBSERVABILITY = FOLDER.parent / "deploy" / "observability"
NOTE = "<!-- Written by docs/generate.py: change the code, then run `make docs`. -->\n"

DEPENDENCIES = """What the wheel and its extras install on any supported Python, with the licence as an SPDX
expression. `constraints.txt` has the version of each, and a release comes with a bill of materials
([Releasing](../releasing.md)).
"""

Schema = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Write every page, or with `--check` print those that differ from the code. Returns the exit code."""
    pages = {
        "reference/settings.md": settings_page(),
        "reference/policy.md": policy_page(),
        "reference/intent-service.md": service_page(),
        "reference/intent-platform.md": platform_page(),
        "reference/commands.md": commands_page(),
        "metrics.md": metrics_page(),
        "reference/dependencies.md": dependencies_page(),
    }
    stale = [name for name, text in pages.items() if not _is(FOLDER / name, text)]
    if "--check" not in arguments:
        (FOLDER / "reference").mkdir(exist_ok=True)
        for name in stale:
            (FOLDER / name).write_text(pages[name], encoding="utf-8")
        return 0
    for name in stale:
        print(f"docs/{name} differs from the code: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


def _is(file: Path, text: str) -> bool:
    return file.exists() and file.read_text(encoding="utf-8") == text


def settings_page() -> str:
    """Return the settings as tables, one for each section."""
    return _schema_page(
        "Settings",
        "The keys of the settings file (`--config`). The environment variable of `admin.listen` "
        "is `SIDECARS_ADMIN__LISTEN`. `sidecars config schema` prints the same as JSON Schema.",
        Settings.model_json_schema(),
    )


def policy_page() -> str:
    """Return the policy language as tables, one for each section."""
    return _schema_page(
        "Policy",
        "The keys of a policy file. [Rules](../rules.md) and [Credentials](../authn.md) explain them. "
        "`sidecars policy schema` prints the same as JSON Schema.",
        PolicyFile.model_json_schema(),
    )


def service_page() -> str:
    """Return the keys of a service file as tables, one for each section."""
    return _schema_page(
        "Intent: service files",
        "The keys of a service file. [Intent](../edge.md) explains them. `sidecars edge schema service` "
        "prints the same as JSON Schema.",
        ServiceFile.model_json_schema(),
    )


def platform_page() -> str:
    """Return the keys of a platform file as tables, one for each section."""
    return _schema_page(
        "Intent: platform files",
        "The keys of a platform file. [Intent](../edge.md) explains them, [Policy](policy.md) has the keys "
        "below `policy`. `sidecars edge schema platform` prints the same as JSON Schema.",
        _without_policy(PlatformFile.model_json_schema()),
    )


def _without_policy(schema: Schema) -> Schema:
    """Return the schema of platform files without what the page about policies has."""
    properties = {**schema["$defs"]["PolicySettings"]["properties"]}
    plain = {name: {"description": value["description"]} for name, value in properties.items()}
    policy = {**schema["$defs"]["PolicySettings"], "properties": plain}
    return {**schema, "$defs": {**schema["$defs"], "PolicySettings": policy}}


def dependencies_page() -> str:
    """Return the distributions that users install, with their licences."""
    lines = [
        NOTE,
        "# Dependencies\n",
        DEPENDENCIES,
        "| distribution | licence | installed |",
        "|---|---|---|",
    ]
    for one in dependencies():
        wanted = ", ".join(f"`{extra}`" for extra in one.wanted_by)
        lines.append(f"| {one.name} | {one.licence} | {f'with {wanted}' if wanted else 'always'} |")
    return "\n".join([*lines, ""])


def _schema_page(title: str, text: str, schema: Schema) -> str:
    lines = [NOTE, f"# {title}\n", f"{text}\n"]
    definitions = schema.get("$defs", {})
    lines += _table("Top level", schema)
    for place, section in _sections("", schema, definitions, set()):
        lines += _table(f"`{place}`", section)
    return "\n".join(lines)


def _sections(
    place: str, schema: Schema, definitions: Schema, seen: set[str]
) -> Iterator[tuple[str, Schema]]:
    """Yield every object below `schema` with its path, depth first; each object only once."""
    for name, value in schema.get("properties", {}).items():
        for reference, suffix in _references(value):
            if reference in seen or "properties" not in definitions[reference]:
                continue
            seen.add(reference)
            path = f"{place}.{name}{suffix}".lstrip(".")
            yield path, definitions[reference]
            yield from _sections(path, definitions[reference], definitions, seen)


def _references(value: Any, suffix: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2], suffix
    for key in ("anyOf", "oneOf", "allOf"):
        for one in value.get(key, ()):
            yield from _references(one, suffix)
    yield from _references(value.get("items"), f"{suffix}[]")
    yield from _references(value.get("additionalProperties"), f"{suffix}.NAME")


def _table(heading: str, schema: Schema) -> list[str]:
    lines = [f"## {heading}\n"]
    if "description" in schema:
        lines.append(f"{_cell(schema['description'])}\n")
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", ())
    for name, value in schema.get("properties", {}).items():
        default = "required" if name in required else _default(value.get("default"))
        lines.append(f"| `{name}` | {_kind(value)} | {default} | {_cell(value.get('description', ''))} |")
    return [*lines, ""]


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict | list):
        return "see below" if value else "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _kind(value: Schema) -> str:
    """Return the type of a value in a few words, with its bounds."""
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return " or ".join(f"`{one}`" for one in value["enum"])
    for key in ("anyOf", "oneOf"):
        if key in value:
            kinds = (_kind(one) for one in value[key] if one.get("type") != "null")
            return " or ".join(dict.fromkeys(kinds))
    if "$ref" in value or "allOf" in value:
        return "block"
    kind = str(value.get("type", "any"))
    if kind == "array":
        return f"list of {_kind(value.get('items', {}))}"
    words = {"string": "text", "object": "block", "boolean": "true or false"}
    low, high = value.get("minimum", value.get("exclusiveMinimum")), value.get("maximum")
    bounds = [f"from {low}"] if low is not None else []
    bounds += [f"to {high}"] if high is not None else []
    return " ".join([words.get(kind, kind), *bounds])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("{{", "{ {")


METRICS_INTRODUCTION = """\
The page `/metrics` of the admin port, in Prometheus's text format or, if the scraper asks for it, in
OpenMetrics. With `workers`, it has the sums of the counters and histograms of all workers, and each gauge
once for each worker, with a label `worker`. What belongs to a sidecar, a store or a setting that is not
configured is absent.

With `metrics: envoyproxy`, the untyped metrics have the type counter, there is
`ratelimit_service_response_time_seconds`, and an unknown domain is part of a metric's name
([Rate limits](ratelimit.md#metrics)).

In OpenMetrics, the buckets of two histograms have exemplars: those of `grpc_server_handling_seconds` for
`Check` the decision id of a call, those of `accesslog_request_duration_seconds` the request id of a request.
[`sidecars why ID`](doctor.md#why-a-request-got-its-answer) explains either. Prometheus stores exemplars with
`--enable-feature=exemplar-storage`. The first call of a bucket after each scrape is kept, so each further one
costs no more than a test.

The column "healthy" says what a process shows while nothing is wrong. After each label is the number of
values that it can have in one process: clients cannot raise the number of series beyond that.
"""
SAMPLE = """\
authz:
  listen: ["unix:a"]
  policy: [policy.yaml]
  decisions: {log: {}}
  sessions_api: {listen: "unix:s", clients: [{name: login, token_file: secret, may: [create]}]}
ratelimit:
  listen: ["unix:r"]
  limits: [limits.yaml]
  store: redis
  metrics: NAMES
  xds: {server: "c:18000"}
  quota: {enabled: true}
accesslog: {listen: ["unix:l"], envoy_admin: "unix:e"}
bundle: {url: "https://a/edge.tar.gz", keys: {a: a.pem}, folder: bundles, status: {url: "https://a/status"}}
redis: {url: "redis://127.0.0.1:6379"}
redis_per_second: {url: "redis://127.0.0.1:6380"}
"""
POLICY = """\
credentials:
  issuers: [{issuer: "https://a", audiences: [a], jwks: {url: "https://a/keys"}, max_lifetime_seconds: 600}]
  sessions: {store: redis}
  revocations: {store: redis}
  introspection: {url: "https://a/introspect", client_id: a, client_secret_file: secret, audiences: [a]}
rules: [{name: all, paths: [/], allow: anyone}]
"""


def metrics_page() -> str:
    """Return every metric of a process with the three sidecars, and those of the supervisor.

    Raises LookupError if a metric has no row in METRIC_FACTS, or a row no metric.
    """
    metrics = all_metrics()
    unknown, unused = metrics.keys() - METRIC_FACTS.keys(), METRIC_FACTS.keys() - metrics.keys()
    if unknown or unused:
        raise LookupError(f"METRIC_FACTS lacks {sorted(unknown)}, and has too many: {sorted(unused)}")
    uses = alerts_by_metric(OBSERVABILITY.glob("alerts/*.y*ml"))
    lines = [NOTE, "# Metrics\n", METRICS_INTRODUCTION]
    lines += ["| metric | type | unit | labels: the most values | healthy | alerts | meaning |"]
    lines += ["|---|---|---|---|---|---|---|"]
    lines += [_metric(name, metrics[name], uses.get(name, ())) for name in sorted(metrics)]
    return "\n".join([*lines, ""])


def all_metrics() -> dict[str, Metric]:
    """Return each metric that a process may have, by the name that a query has."""
    found: dict[str, Metric] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secret").write_text("secret", encoding="utf-8")
        (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
        (folder / "limits.yaml").write_text("domain: edge\ndescriptors: []\n", encoding="utf-8")
        for names in ("envoyproxy", "native"):
            (folder / "sidecars.yaml").write_text(SAMPLE.replace("NAMES", names), encoding="utf-8")
            metrics = _registry(folder / "sidecars.yaml")
            found |= {metric_name(metric.name, metric.type): metric for metric in metrics}
    return found


def _registry(file: Path) -> list[Metric]:
    assembly = serve.assemble(read_settings(file, {}), serve.ALL)
    Process(assembly.settings, assembly.bound, assembly.dependencies, {})
    supervisor = [*WorkerCollector([]).collect(), workers_that_answered({})]
    return [*assembly.dependencies.registry.collect(), *supervisor]


def alerts_by_metric(files: Iterable[Path]) -> dict[str, list[str]]:
    """Return the names of the alerts whose expression uses each metric, also by way of a recording rule."""
    names: dict[str, set[str]] = {}
    alerts: dict[str, set[str]] = {}
    for file in sorted(files):
        for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                used = set(re.findall(r"[a-zA-Z_:][\w:]*", str(rule["expr"])))
                if "record" in rule:
                    names.setdefault(rule["record"], set()).update(used)
                else:
                    alerts.setdefault(rule["alert"], set()).update(used)
    found: dict[str, list[str]] = {}
    for alert, used in sorted(alerts.items()):
        for metric in {re.sub("_(bucket|count|sum)$", "", name) for name in _resolved(used, names)}:
            found.setdefault(metric, []).append(alert)
    return found


def _resolved(used: set[str], records: Mapping[str, set[str]]) -> set[str]:
    """Return `used` and everything that the recording rules in it use."""
    seen: set[str] = set()
    waiting = set(used)
    while waiting:
        seen |= waiting
        waiting = set().union(*(records.get(name, set()) for name in waiting)) - seen
    return seen


def _metric(name: str, metric: Metric, alerts: Sequence[str]) -> str:
    facts = METRIC_FACTS[name]
    labels = "; ".join(f"`{label}`: {facts.bound(label)}" for label in facts.labels)
    kind = "untyped" if metric.type == "unknown" else metric.type
    used = ", ".join(f"`{alert}`" for alert in alerts)
    meaning = _cell(metric.documentation)
    return f"| `{name}` | {kind} | {facts.unit} | {labels} | {facts.healthy} | {used} | {meaning} |"


def commands_page() -> str:
    """Return every command with its options, as `--help` shows them."""
    lines = [NOTE, "# Commands\n"]
    for path, command in _commands("sidecars", get_command(app)):
        lines += [f"## `{path}`\n", f"{(command.help or '').strip()}\n"]
        rows = []
        for parameter in command.params:
            spelled = ", ".join(f"`{one}`" for one in parameter.opts) if parameter.opts else parameter.name
            if getattr(parameter, "hidden", False):
                continue
            rows.append(f"| {spelled} | {_cell(getattr(parameter, 'help', None) or '')} |")
        if rows:
            lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from _commands(f"{path} {name}", below)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
