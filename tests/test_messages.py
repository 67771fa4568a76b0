"""Every error that a model can find has our wording, not that of a library."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core._pydantic_core import list_all_errors  # the documented list, not exported

from authz.credentials.api_key.verifier import ApiKeyFile
from authz.policy.model import PolicyFile
from authz.tools.examples import Question
from authz.tools.suites.model import CallersFile, SuiteFile
from common.configfile import ConfigError, parse, validate, wording
from sidecars.settings.root import Settings

MODELS: Final[tuple[type[BaseModel], ...]] = (
    Settings,
    PolicyFile,
    SuiteFile,
    CallersFile,
    Question,
    ApiKeyFile,
)
ERRORS: Final = {error["type"]: error["message_template_python"] for error in list_all_errors()}

FOUND_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "str": (
        "string_type",
        "string_unicode",
        "string_too_short",
        "string_too_long",
    ),
    "int": (
        *("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
        *("greater_than_equal", "greater_than", "less_than_equal", "less_than"),
    ),
    "float": ("float_type", "float_parsing", "finite_number", "greater_than", "less_than"),
    "bool": ("bool_type", "bool_parsing"),
    "datetime": (
        "datetime_type",
        "datetime_parsing",
        "datetime_object_invalid",
        "datetime_from_date_parsing",
    ),
    "tuple": ("tuple_type", "too_short", "too_long", "missing"),
    "frozenset": ("frozen_set_type", "set_item_not_hashable"),
    "dict": ("dict_type", "invalid_key"),
    "literal": ("literal_error",),
    "enum": ("enum",),
    "model": ("model_type",),
    "model-fields": ("model_attributes_type", "missing", "extra_forbidden", "invalid_key"),
    "tagged-union": ("union_tag_invalid", "union_tag_not_found"),
    "definitions": ("recursion_loop", "recursion_depth_exceeded"),
    "function-after": ("value_error", "assertion_error"),
    "function-before": ("value_error", "assertion_error"),
    "function-plain": ("value_error", "assertion_error"),
    "dataclass": ("dataclass_type",),
}
"""The errors that each type of core schema can find."""

FINDS_NOTHING: Final = {"any", "default", "definition-ref", "json-or-python", "lax-or-strict"} | {
    "model-field", "nullable", "union", "no-info", "with-info", "dataclass-args", "dataclass-field",
    "is-instance",
}  # fmt: skip
"""Schemas without their own errors. `is-instance` is for Path and addresses, whose text is parsed before."""

SPOKEN_ELSEWHERE: Final = {"extra_forbidden", "union_tag_not_found", "value_error", "assertion_error"}

WRONG: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 7, 10**30, 1.5, float("nan"), float("inf"), -0.5),
    *("", " ", "wrong", "%zz", "a\nb", "x" * 2000, "2026-13-45", "http://", "redis://h:port", "unix:"),
    *("1.2.3.4:99999", "10.0.0.1/8", "(", "a =="),
    *([], [None], [[]], [False], ["", ""], [5], ["wrong"], [{}]),
    *({}, {"wrong": 1}, {"X-Y z": 1}, {"type": "wrong"}, {"address": 5}, {"equals": {"a": 1}}, {1: 2}),
    {"address": "127.0.0.1:1", "tls": 3},
)


_FRAGMENTS: Final = sorted(
    {
        fragment.strip()
        for template in ERRORS.values()
        for fragment in re.split(r"\{\w+\}", template)
        if len(fragment.strip()) >= 9 and " " in fragment.strip()
    }
)
LEAKS: Final = re.compile(
    "|".join(map(re.escape, _FRAGMENTS))
    + r"|Value error|Assertion failed|\binstance\b|\btuple\b|\bdict\b|dictionary|<class|Path\(|datetime\."
    + r"|\b(?:None|True|False)\b|IPv[46]\w|token recognition|mismatched input|extraneous|viable"
    + r"|EOF|Expr|BaseModel|_Listen|function-|\[key\]"
)


def schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every nested core schema."""
    if isinstance(schema, Mapping):
        if isinstance(schema.get("type"), str):
            yield schema
        for key, below in schema.items():
            if key not in {"metadata", "serialization", "expected", "members"}:
                yield from schemas(below)
    elif isinstance(schema, Sequence) and not isinstance(schema, str):
        for below in schema:
            yield from schemas(below)


@pytest.mark.parametrize("model", MODELS)
def test_every_error_that_a_model_can_find_has_our_words(model: type[BaseModel]) -> None:
    found = {schema["type"] for schema in schemas(model.__pydantic_core_schema__)}
    assert found - FOUND_BY.keys() <= FINDS_NOTHING, "a schema that is new here: which errors can it find?"
    for kind in {kind for schema in found & FOUND_BY.keys() for kind in FOUND_BY[schema]}:
        assert kind in ERRORS
        assert kind in {*wording.SHAPES, *wording.BOUNDS, *wording.SIZES, *wording.OTHERS, *SPOKEN_ELSEWHERE}


@pytest.mark.parametrize("model", MODELS)
def test_no_model_tells_a_pattern_without_an_example(model: type[BaseModel]) -> None:
    """`Spelled` replaces `Field(pattern=...)`."""
    assert not [schema for schema in schemas(model.__pydantic_core_schema__) if "pattern" in schema]


def contents(schema: Mapping[str, Any], place: Mapping[str, Any], seen: set[str]) -> Iterator[Any]:
    """Yield contents that are wrong in one place each: every place in the schema, every wrong value."""
    if "$ref" in place:
        name = place["$ref"].rpartition("/")[2]
        if name not in seen:
            seen.add(name)
            yield from contents(schema, schema["$defs"][name], seen)
        return
    yield from WRONG
    for choice in (*place.get("anyOf", ()), *place.get("oneOf", ()), *place.get("allOf", ())):
        yield from contents(schema, choice, seen)
    if isinstance(place.get("items"), Mapping):
        for below in contents(schema, place["items"], seen):
            yield [below]
    if isinstance(place.get("additionalProperties"), Mapping):
        for below in contents(schema, place["additionalProperties"], seen):
            yield {"a": below}
    constants = {
        key: below["const"] for key, below in place.get("properties", {}).items() if "const" in below
    }
    for key, below in place.get("properties", {}).items():
        for content in contents(schema, below, seen):
            yield {**constants, key: content}


@pytest.mark.parametrize("model", MODELS)
def test_no_wording_of_a_library_leaks(model: type[BaseModel]) -> None:
    seen = set[str]()
    schema = model.model_json_schema()
    for content in contents(schema, schema, set()):
        try:
            validate(parse(yaml.safe_dump(content), "f.yaml"), model, {"breathe": lambda: None})
        except ConfigError as error:
            for problem in error.problems:
                # Words from the file itself may be any words.
                text = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "''", problem.message)
                assert not text.startswith("does not belong here"), (content, problem)
                assert not LEAKS.search(text), (content, problem)
                seen.add(problem.message)
    assert len(seen) > 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("authz: {listen: 5}", "1: authz.listen: expected a list, not 5"),
        ("authz: {listen: [5], policy: [p]}", "1: authz.listen[0]: expected an address as text, "),
        (
            "authz: {listen: [NO], policy: [p]}",
            "expected an address as text, as in 127.0.0.1:9001 or unix:/run/authz.sock, not NO",
        ),
        ("workers: lots", "1: workers: expected a whole number, not 'lots'"),
        ("workers:", "1: workers: expected a whole number, but it is empty"),
        ("accesslog: {sinks: [stdout]}", "accesslog.sinks[0]: expected keys and values, not 'stdout'"),
        (
            "accesslog: {sinks: [{type: fiel}]}",
            "accesslog.sinks[0].type: expected stdout, file, redis, otlp, parquet or kafka, not 'fiel'",
        ),
        ("accesslog: {sinks: [{path: a}]}", "accesslog.sinks[0]: needs the key type"),
        (
            "accesslog: {sinks: [{type: stdout, path: a}]}",
            "sinks[0].path: unknown key; known here: batch_bytes",
        ),
        ("admin: {port_file: 5}", "admin.port_file: expected the path of a file or folder, not 5"),
        ("log: {level: NO}", "log.level: expected debug, info, warning or error, not NO"),
    ],
)
def test_settings(text: str, message: str) -> None:
    assert any(message in one for one in problems(text, Settings)), problems(text, Settings)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("roles: [NO]", 'expected text, not NO: YAML reads NO as false, so write it in quotes: "NO"'),
        ("roles: [010]", 'expected text, not 010: YAML reads 010 as a number, so write it in quotes: "010"'),
        ("roles: [2026-01-31]", "YAML reads 2026-01-31 as a date"),
        ("roles: admin", "rules[0].allow.roles: expected a list, not 'admin'"),
        (
            "claims: {a: {equals: {b: c}}}",
            "equals: expected true or false, a whole number, a number or text, not keys",
        ),
        ("kinds: [cookie]", "kinds[0]: expected jwt, session, "),
        (
            "scopes: ['a b']",
            "scopes[0]: 'a b': expected text as in orders:read (it matches [",
        ),
    ],
)
def test_rules(rule: str, message: str) -> None:
    found = problems(f"rules: [{{name: a, allow: {{{rule}}}}}]", PolicyFile)
    assert len(found) == 1
    assert message in found[0]


def problems(text: str, model: type[BaseModel]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(parse(text, "f.yaml"), model)
    return [str(problem) for problem in caught.value.problems]
