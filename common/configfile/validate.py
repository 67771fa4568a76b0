"""Checks a document against a pydantic model, with every error at its line."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from common.configfile import wording
from common.configfile.document import Document
from common.configfile.problems import ConfigError, KeyPart, Problem

_MAX_LISTED_KEYS: Final = 12
"""The most keys that a message lists: people stop reading longer ones."""

Model = TypeVar("Model", bound=BaseModel)
Path = tuple[KeyPart, ...]
Written = Callable[[Sequence[KeyPart]], str | None]
"""Returns the scalar at a key path as the file spells it, if that is known."""


def validate(document: Document, model: type[Model], context: Any = None) -> Model:
    """`document` as a `model`. Raises ConfigError with every problem, each at its line."""
    data = {} if document.data is None else document.data
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise ConfigError(problems_of(error, document, model)) from error


def problems_of(error: ValidationError, document: Document, model: type[BaseModel]) -> list[Problem]:
    """Pydantic's findings as problems that name the line and key path in `document`."""
    findings = findings_of(error, document.data, model, document.text)
    return [document.problem(path, message) for path, message in findings]


def findings_of(
    error: ValidationError, data: Any, model: type[BaseModel], written: Written = lambda _: None
) -> Iterator[tuple[Path, str]]:
    """Pydantic's findings about `data`, each as a key path in `data` and what is wrong there.

    This is for data that does not come from one document (a file and the environment, for instance). If a
    value may have several forms and has none of them, one message names them all.
    """
    schema = _json_schema(model)
    findings = [(_place_of(finding, data), finding) for finding in error.errors(include_url=False)]
    forms_at: dict[Path, list[tuple[str, Any]]] = {}
    for path, finding in findings:
        kind = finding["type"]
        if _is_container(kind) and any(_is_below(other, path) for other, _ in findings):
            continue  # it has one of its forms, with something wrong inside; and bad items are not counted
        wanted = wording.expected(kind, finding.get("ctx", {}))
        if not wanted:
            yield path, _message(finding, path, schema, data, written(path))
        elif path in forms_at:
            forms_at[path].append((wanted, _value(finding)))
        else:
            forms_at[path] = [(wanted, _value(finding))]
    for path, forms in forms_at.items():
        every = wording.any_of(list(dict.fromkeys(wanted for wanted, _ in forms)))
        yield path, f"expected {every}{wording.instead(forms[0][1], written(path), every)}"


@lru_cache(maxsize=16)
def _json_schema(model: type[BaseModel]) -> Mapping[str, Any]:
    return model.model_json_schema()


def _place_of(finding: Any, data: Any) -> Path:
    location, kind = finding["loc"], finding["type"]
    if kind == "missing":
        return (*_path_in(data, location[:-1]), location[-1])
    path = _path_in(data, location)
    if kind == "union_tag_invalid":
        return (*path, _discriminator(finding))
    return path


def _value(finding: Any) -> Any:
    """What is wrong: of a mapping whose `type` is wrong, the type."""
    value = finding["input"]
    return value[_discriminator(finding)] if finding["type"] == "union_tag_invalid" else value


def _discriminator(finding: Any) -> str:
    text: str = finding["ctx"]["discriminator"]
    return text.strip("'")


def _message(finding: Any, path: Path, schema: Mapping[str, Any], data: Any, written: str | None) -> str:
    kind, value = finding["type"], finding["input"]
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        places = _places(schema, data, path[:-1])
        return _unknown_key(str(path[-1]), _keys_of(places), _holders(schema, places, str(path[-1])))
    if kind == "union_tag_not_found":
        return f"needs the key {_discriminator(finding)}"
    if kind in wording.SIZES:
        return wording.SIZES[kind](finding["ctx"], value)
    if kind in wording.OTHERS:
        return wording.OTHERS[kind]
    if kind in {"value_error", "assertion_error"}:
        return wording.own_words(finding["msg"], value, written)
    return "does not belong here" + wording.instead(value, written, "")


def _is_container(kind: str) -> bool:
    """Whether the finding is about a value as a whole, whose parts may have findings of their own."""
    return kind == "too_short" or kind in wording.SHAPES or kind in wording.BOUNDS


def _is_below(location: Sequence[KeyPart], above: Sequence[KeyPart]) -> bool:
    return len(location) > len(above) and tuple(location[: len(above)]) == tuple(above)


def _unknown_key(key: str, known_keys: Sequence[str], holders: Sequence[str]) -> str:
    if holders:
        return f"unknown key; it belongs under {wording.any_of(list(holders))}"
    close = get_close_matches(key, [known for known in known_keys if known != key], n=1)
    if close:
        return f"unknown key; did you mean {close[0]!r}?"
    listed = 0 < len(known_keys) <= _MAX_LISTED_KEYS
    return f"unknown key; known here: {', '.join(known_keys)}" if listed else "unknown key"


def _path_in(data: Any, location: Sequence[KeyPart]) -> Path:
    """The parts of `location` that exist in the data: pydantic adds union tags and validator names."""
    path: list[KeyPart] = []
    for part in location:
        in_map = isinstance(data, dict) and part in data
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_map or in_list:
            data = data[part]
            path.append(part)
    return tuple(path)


def _keys_of(places: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that a JSON schema knows in a mapping that may have these forms."""
    return sorted({key for place in places for key in place.get("properties", {})})


def _holders(schema: Mapping[str, Any], places: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """The keys of the mapping whose own mappings know `key`: it was written one level too high."""
    return sorted(
        holder
        for holder in _keys_of(places)
        for place in places
        for form in _alternatives(schema, place.get("properties", {}).get(holder, {}), None)
        if key in form.get("properties", {})
    )


def _places(schema: Mapping[str, Any], data: Any, path: Path) -> list[Mapping[str, Any]]:
    """The schemas that the value at `path` may have."""
    places = _alternatives(schema, schema, data)
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
        below = [child for place in places for child in _children(place, part)]
        places = [place for child in below for place in _alternatives(schema, child, data)]
    return places


def _children(place: Mapping[str, Any], part: KeyPart) -> Iterator[Mapping[str, Any]]:
    if isinstance(part, int):
        found = place.get("items")
    else:
        found = place.get("properties", {}).get(part, place.get("additionalProperties"))
        yield from place.get("patternProperties", {}).values()
    if isinstance(found, Mapping):
        yield found


def _alternatives(schema: Mapping[str, Any], place: Mapping[str, Any], data: Any) -> list[Mapping[str, Any]]:
    """`place` with references followed, or the schemas it may be one of: not those of another `type`."""
    if "$ref" in place:
        return _alternatives(schema, schema["$defs"][place["$ref"].rpartition("/")[2]], data)
    choices = [*place.get("anyOf", ()), *place.get("oneOf", ()), *place.get("allOf", ())]
    found = [found for choice in choices for found in _alternatives(schema, choice, data)] or [place]
    return [one for one in found if _may_be(one, data)] or found


def _may_be(place: Mapping[str, Any], data: Any) -> bool:
    """Whether the constants of the schema are those of the data, where it has them at all."""
    if not isinstance(data, Mapping):
        return True
    return all(
        "const" not in below or key not in data or data[key] == below["const"]
        for key, below in place.get("properties", {}).items()
    )
