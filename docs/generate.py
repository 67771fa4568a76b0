"""Writes docs/reference/ from the code: `python docs/generate.py`, or `--check` to compare."""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.metrics_core import Metric
from typer.main import get_command

from authz.policy.model import PolicyFile
from sidecars.cli import serve
from sidecars.cli.app import app
from sidecars.process.lifecycle import Process
from sidecars.settings.load import read_settings
from sidecars.settings.root import Settings
from sidecars.workers.supervisor import WorkerCollector

FOLDER = Path(__file__).parent / "reference"
NOTE = "<!-- Written by docs/generate.py: change the code, then run `make docs`. -->\n"

Schema = Mapping[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Write every page, or with `--check` print those that differ from the code. Returns the exit code."""
    pages = {
        "settings.md": settings_page(),
        "policy.md": policy_page(),
        "metrics.md": metrics_page(),
        "commands.md": commands_page(),
    }
    stale = [name for name, text in pages.items() if not _is(FOLDER / name, text)]
    if "--check" not in arguments:
        FOLDER.mkdir(exist_ok=True)
        for name in stale:
            (FOLDER / name).write_text(pages[name], encoding="utf-8")
        return 0
    for name in stale:
        print(f"docs/reference/{name} differs from the code: run `make docs`", file=sys.stderr)
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


SAMPLE = """\
authz: {listen: ["unix:a"], policy: [policy.yaml]}
ratelimit: {listen: ["unix:r"], limits: [limits.yaml], store: redis}
accesslog: {listen: ["unix:l"], envoy_admin: "unix:e"}
redis: {url: "redis://127.0.0.1:6379"}
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
    """Return every metric of a process with the three sidecars, and those of the supervisor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "secret").write_text("secret", encoding="utf-8")
        (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
        (folder / "limits.yaml").write_text("domain: edge\ndescriptors: []\n", encoding="utf-8")
        (folder / "sidecars.yaml").write_text(SAMPLE, encoding="utf-8")
        registry = _registry(folder / "sidecars.yaml")
    rows = sorted({_metric(metric) for metric in registry})
    lines = [NOTE, "# Metrics\n", "The page `/metrics` of the admin port; with workers, it merges theirs.\n"]
    lines += ["| metric | type | labels | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _registry(file: Path) -> list[Metric]:
    assembly = serve.assemble(read_settings(file, {}), serve.ALL)
    Process(assembly.settings, assembly.bound, assembly.dependencies, {})
    return [*assembly.dependencies.registry.collect(), *WorkerCollector([]).collect()]


def _metric(metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    given: Sequence[str] = getattr(metric, "_labelnames", ())
    names = {*given, *(label for sample in metric.samples for label in sample.labels)} - {"le"}
    labels = ", ".join(f"`{label}`" for label in sorted(names))
    return f"| `{name}` | {metric.type} | {labels} | {_cell(metric.documentation)} |"


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
