"""A mapping of a limits file, read as Go reads it into the fields of a struct."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from common.buckets import MAX_TOKENS
from common.configfile import Document, KeyPart, Problem
from ratelimit.keys import hint_for
from ratelimit.metadata import MetadataError, as_metadata
from ratelimit.rules import Algorithm, OnFailure, Priority
from ratelimit.scalars import BASE_60, as_in_go, is_base_60

_SECONDS: Final = re.compile("([0-9]{1,9})([smhd])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

_Path = tuple[KeyPart, ...]
_Choice = TypeVar("_Choice", Algorithm, OnFailure, Priority)


class MapReader:
    """A YAML mapping at its place in the file. A missing value reads as empty, as Go reads it.

    What is wrong is added to `problems`; the value then reads as missing.
    """

    def __init__(self, document: Document, path: _Path, data: Any, problems: list[Problem]) -> None:
        self.document = document
        self.path = path
        self.data: Mapping[Any, Any] = data if isinstance(data, dict) else {}
        self._is_map = isinstance(data, dict) or data is None
        self._problems = problems

    @property
    def line(self) -> int:
        """The line (from 1) of the mapping."""
        return self.document.line(self.path)

    @property
    def is_kubernetes_object(self) -> bool:
        """Whether it has the keys that every Kubernetes object has."""
        return "apiVersion" in self.data and "kind" in self.data

    def problem(self, message: str, *below: KeyPart) -> None:
        """Add a problem with what is at `below` in the mapping."""
        self._problems.append(self.document.problem((*self.path, *below), message))

    def check(self, known: Sequence[str]) -> bool:
        """Whether it is a map at all; reports every key that is not one of `known`."""
        if not self._is_map:
            self.problem("error loading config file: expected a map")
        for key in self.data:
            if not isinstance(key, str):
                written = str(key)
                self.problem(f"config error, key is not of type string: {written}", written)
            elif key not in known:
                self.problem(f"config error, unknown key '{key}'{hint_for(key, known)}", key)
        return self._is_map

    def text(self, key: str) -> str:
        """Text as it is written; Go reads 010, true and 2024-01-01 as the text they are."""
        value = self.data.get(key)
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        written = self.document.text((*self.path, key)) or ""
        if isinstance(value, list | dict) or (isinstance(value, float) and not is_base_60(value, written)):
            self.problem(f"error checking config: expected text, found {_kind(value)}", key)
            return ""
        return written

    def flag(self, key: str) -> bool:
        """A boolean; missing reads as false."""
        value = self._scalar(key)
        if value is not None and not isinstance(value, bool):
            self.problem(f"error loading config file: expected true or false, found {_kind(value)}", key)
        return value is True

    def number(self, key: str, default: int, least: int, most: int = MAX_TOKENS) -> int:
        """A whole number from `least` to `most`; missing reads as `default`."""
        value = self._scalar(key)
        if value is None:
            return default
        read = self.data[key]
        if isinstance(value, str) and isinstance(read, int):
            self.problem(f"error loading config file: {value} is {read} in base 60; write {read}", key)
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            wrong = "error checking config" if isinstance(value, float) else "error loading config file"
            self.problem(f"{wrong}: expected a whole number, found {_kind(value)}", key)
            return default
        if not least <= value <= most:
            self.problem(f"error loading config file: expected {least} to {most}, found {value}", key)
            return default
        return value

    def seconds(self, key: str, default: int, most: int) -> int:
        """A time such as 30s, 10m or 1h, of one second to `most`; missing reads as `default`."""
        text = self.text(key)
        if not text:
            return default
        written = _SECONDS.fullmatch(text)
        value = int(written[1]) * _UNITS[written[2]] if written else 0
        if not 1 <= value <= most:
            expected = f"a time from 1s to {most}s, such as 30s, 10m or 1h"
            self.problem(f"error loading config file: expected {expected}, found '{text}'", key)
            return default
        return value

    def choice(self, key: str, kind: type[_Choice], default: _Choice) -> _Choice:
        """One of the values of `kind`; missing reads as `default`."""
        value = self.data.get(key)
        if value is None:
            return default
        for choice in kind:
            if choice.value == value:
                return choice
        expected = " or ".join(choice.value for choice in kind)
        self.problem(f"error loading config file: expected {expected}, found {value!r}", key)
        return default

    def map(self, key: str) -> "MapReader | None":
        """The mapping at `key`, which may turn out to be something else; None where it is missing."""
        value = self.data.get(key)
        return None if value is None else MapReader(self.document, (*self.path, key), value, self._problems)

    def maps(self, key: str) -> Iterator["MapReader"]:
        """The mappings in the list at `key`."""
        values = self.data.get(key)
        if values is None:
            return
        if not isinstance(values, list):
            self.problem(f"error loading config file: expected a list, found {_kind(values)}", key)
            return
        for index, value in enumerate(values):
            if isinstance(value, dict):
                yield MapReader(self.document, (*self.path, key, index), value, self._problems)
            else:
                text = f"config error, yaml file contains list of type other than map: {value}"
                self.problem(text, key, index)

    def metadata(self) -> Mapping[str, Any] | None:
        """What is at `metadata`, as a google.protobuf.Struct carries it."""
        value = self.data.get("metadata")
        if value is None:
            return None
        try:
            value = self.document.with_written_keys((*self.path, "metadata"), value)
            return as_metadata(value, lambda below, read: self._plain(("metadata", *below), read))
        except MetadataError as error:
            self.problem(f"error loading config file: {error}", "metadata")
            return None

    def _scalar(self, key: str) -> Any:
        value = self.data.get(key)
        return None if value is None else as_in_go(value, lambda: self._plain((key,), value))

    def _plain(self, below: tuple[KeyPart, ...], value: Any) -> str | None:
        """The scalar at `below` as it is written; None for one in quotes, and for a number in base 10."""
        if isinstance(value, int | float) and not self.document.holds(BASE_60):
            return None
        return self.document.plain((*self.path, *below))


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "a map" if isinstance(value, dict) else repr(value)
