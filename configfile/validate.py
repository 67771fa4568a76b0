"""Checks a document against a pydantic model, with every error at its line."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from configfile.document import Document
from configfile.problems import ConfigError, KeyPart, Problem

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
    known_keys = sorted(set(_property_names(model.model_json_schema())))
    for finding in error.errors(include_url=False):
        location, kind = finding["loc"], finding["type"]
        path = _path_in(data, location)
        if kind == "extra_forbidden":
            message = _unknown_key(str(location[-1]), known_keys)
        elif kind == "missing":
            path, message = (*_path_in(data, location[:-1]), location[-1]), "is required"
        elif kind == "model_type":
            message = "expected keys and values" + _instead_of(finding["input"])
        elif kind in {"value_error", "assertion_error"}:
            message = finding["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        else:
            message = finding["msg"] + _instead_of(finding["input"])
        yield path, message


def _instead_of(value: Any) -> str:
    return f", not {value!r}" if value is None or isinstance(value, str | int | float | bool) else ""


def _unknown_key(key: str, known_keys: list[str]) -> str:
    close = get_close_matches(key, known_keys, n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else "unknown key"


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


def _property_names(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
        for value in schema.values():
            yield from _property_names(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _property_names(value)
