"""Checks a document against a pydantic model, with every error at its line."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from configfile.document import Document
from configfile.problems import ConfigError, KeyPart, Problem

_MAX_LISTED_KEYS = 12
"""More than that and the message is no longer read."""

Model = TypeVar("Model", bound=BaseModel)


def validate(document: Document, model: type[Model], context: Any = None) -> Model:
    """`document` as a `model`. Raises ConfigError with every problem, each at its line."""
    data = {} if document.data is None else document.data
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise ConfigError(problems_of(error, document, model)) from error


def problems_of(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """Pydantic's findings as problems that name the line and key path in `document`."""
    return [document.problem(path, message) for path, message in findings_of(error, document.data, model)]


def findings_of(
    error: ValidationError, data: Any, model: type[BaseModel]
) -> Iterator[tuple[tuple[KeyPart, ...], str]]:
    """Pydantic's findings about `data`, each as a key path in `data` and what is wrong there.

    For data that comes from elsewhere than one document (a file and the environment, for instance).
    """
    schema = model.model_json_schema()
    findings = error.errors(include_url=False)
    for finding in findings:
        location, kind = finding["loc"], finding["type"]
        if kind == "too_short" and any(_is_below(other["loc"], location) for other in findings):
            continue  # pydantic counts without the bad items
        path = _path_in(data, location)
        if kind == "extra_forbidden":
            message = _unknown_key(str(location[-1]), _keys_at(schema, path[:-1]))
        elif kind == "missing":
            path, message = (*_path_in(data, location[:-1]), location[-1]), "is required"
        elif kind == "model_type":
            message = "expected keys and values" + _instead_of(finding["input"])
        elif kind == "too_short":
            least, found = finding["ctx"]["min_length"], finding["ctx"]["actual_length"]
            message = f"expected at least {least} item{'s' if least > 1 else ''}, not {found}"
        elif kind in {"value_error", "assertion_error"}:
            message = finding["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        else:
            message = finding["msg"] + _instead_of(finding["input"])
        yield path, message


def _is_below(location: Sequence[KeyPart], above: Sequence[KeyPart]) -> bool:
    return len(location) > len(above) and tuple(location[: len(above)]) == tuple(above)


def _instead_of(value: Any) -> str:
    return f", not {value!r}" if value is None or isinstance(value, str | int | float | bool) else ""


def _unknown_key(key: str, known_keys: Sequence[str]) -> str:
    close = get_close_matches(key, known_keys, n=1)
    if close:
        return f"unknown key; did you mean {close[0]!r}?"
    listed = 0 < len(known_keys) <= _MAX_LISTED_KEYS
    return f"unknown key; known here: {', '.join(known_keys)}" if listed else "unknown key"


def _path_in(data: Any, location: Sequence[KeyPart]) -> tuple[KeyPart, ...]:
    """The parts of `location` that exist in the data: pydantic adds union tags and validator names."""
    path: list[KeyPart] = []
    for part in location:
        in_map = isinstance(data, dict) and part in data
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_map or in_list:
            data = data[part]
            path.append(part)
    return tuple(path)


def _keys_at(schema: Mapping[str, Any], path: Sequence[KeyPart]) -> list[str]:
    """The keys that a JSON schema knows in the mapping at `path`."""
    places = _alternatives(schema, schema)
    for part in path:
        below = [child for place in places for child in _children(place, part)]
        places = [place for child in below for place in _alternatives(schema, child)]
    return sorted({key for place in places for key in place.get("properties", {})})


def _children(place: Mapping[str, Any], part: KeyPart) -> Iterator[Mapping[str, Any]]:
    if isinstance(part, int):
        found = place.get("items")
    else:
        found = place.get("properties", {}).get(part, place.get("additionalProperties"))
    if isinstance(found, Mapping):
        yield found


def _alternatives(schema: Mapping[str, Any], place: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """`place` with references followed, or each of the schemas it may be one of."""
    if "$ref" in place:
        return _alternatives(schema, schema["$defs"][place["$ref"].rpartition("/")[2]])
    choices = [*place.get("anyOf", ()), *place.get("oneOf", ()), *place.get("allOf", ())]
    return [found for choice in choices for found in _alternatives(schema, choice)] or [place]
