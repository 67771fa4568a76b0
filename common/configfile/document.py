"""A YAML file whose every value knows its line."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from common.configfile.breaks import Breathe, no_breaks
from common.configfile.expansion import excess
from common.configfile.problems import ConfigError, KeyPart, Problem, key_path_text
from common.configfile.quick import Place, line_of, read_plain
from common.configfile.yaml_words import in_our_words
from common.os_errors import in_words

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""A policy of 10,000 rules is about 3 MB; a file far beyond that is a mistake (a log, a core dump)."""

MAX_DEPTH: Final = 100
"""Nesting: configuration needs a dozen levels, and the C loader overflows its stack at about 100,000."""

_PIECE_CHARACTERS: Final = 16 * 1024
"""Searched in a fraction of a millisecond."""

_NULL: Final = "tag:yaml.org,2002:null"

_Loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document:
    """The parsed content of one YAML file.

    `data` is plain Python (dict, list, str, int, float, bool, None, date); `line()` and `problem()`
    find the place of a value by its key path.
    """

    __slots__ = ("_first_line", "_held", "_lines", "_places", "_root", "_text", "_yield_gil", "data", "file")

    def __init__(self, file: str, data: Any, root: yaml.Node | None, text: str | None = None) -> None:
        self.file = file
        self.data = data
        self._root = root
        self._text = text
        self._lines: list[str] | None = None
        self._held: dict[re.Pattern[str], bool] = {}
        self._first_line = 0
        self._places: Place = None
        self._yield_gil: Breathe = no_breaks

    @classmethod
    def _plain(
        cls, file: str, text: str, found: tuple[Any, int, Place], yield_gil: Breathe = no_breaks
    ) -> "Document":
        """The document of plain YAML, whose nodes are composed when the text of one is asked for."""
        data, line, places = found
        document = cls(file, data, None, text)
        document._first_line, document._places = line, places
        document._yield_gil = yield_gil
        return document

    def line(self, path: Sequence[KeyPart]) -> int:
        """The line (from 1) of the value at `path`, or of its closest ancestor that exists."""
        if self._places is not None:
            return line_of(self._first_line, self._places, path)
        node = self._root
        if node is None:
            return 0
        line = node.start_mark.line + 1
        for part in path:
            found = _child(node, part)
            if found is None:
                break
            line, node = found
        return line

    def line_text(self, path: Sequence[KeyPart]) -> str:
        """The whole line of the value at `path`; empty where the text is no longer known."""
        if self._lines is None:
            self._lines = [] if self._text is None else self._text.split("\n")
        number = self.line(path)
        return self._lines[number - 1] if 0 < number <= len(self._lines) else ""

    def holds(self, pattern: re.Pattern[str]) -> bool:
        """Whether `pattern` is found within a line of the text; searched once, to rule out what is rare."""
        found = self._held.get(pattern)
        if found is None:
            text = self._text or ""
            found = False
            for start, end in _pieces(text):
                self._yield_gil()
                found = found or pattern.search(text, start, end) is not None
            self._held[pattern] = found
        return found

    def text(self, path: Sequence[KeyPart]) -> str | None:
        """The scalar at `path` as it is written, without quotes: `0x10` stays `0x10`, `yes` stays `yes`.

        None when `path` holds no scalar. For readers of text that people need not quote.
        """
        node = self._scalar(path)
        return None if node is None else node.value

    def plain(self, path: Sequence[KeyPart]) -> str | None:
        """The scalar at `path` as it is written, where that is without quotes; else None.

        For readers of files that another YAML parser reads, too, and resolves differently.
        """
        node = self._scalar(path)
        return None if node is None or node.style else node.value

    def with_written_keys(self, path: Sequence[KeyPart], data: Any) -> Any:
        """`data`, the content at `path`, with the keys of every mapping as they are written.

        For readers of files that another YAML parser reads, too, to which each key is text: in Python `1` and
        `true` are one key. A key without text (`~`) is empty.
        """
        if not _has_other_keys(data):
            return data
        return _written(data, self._node(path))

    def _scalar(self, path: Sequence[KeyPart]) -> yaml.ScalarNode | None:
        node = self._node(path)
        return node if isinstance(node, yaml.ScalarNode) else None

    def _node(self, path: Sequence[KeyPart]) -> yaml.Node | None:
        if self._root is None and self._text is not None:
            self._root = yaml.compose(self._text, Loader=_Loader)
        node = self._root
        for part in path:
            found = None if node is None else _child(node, part)
            node = None if found is None else found[1]
        return node

    def let_go(self, yield_gil: Breathe = no_breaks) -> None:
        """Free the content piece by piece, so as not to delay a loop; the document is empty afterwards."""
        for part in (*_children(self.data), *_children(self._places)):
            while isinstance(part, list | dict) and part:
                yield_gil()
                if isinstance(part, list):
                    part.pop()
                else:
                    part.popitem()
        self.data, self._places, self._root, self._text, self._lines = None, None, None, None, None

    def problem(self, path: Sequence[KeyPart], message: str) -> Problem:
        """`message` as a problem at `path` of this file."""
        return Problem(self.file, self.line(path), key_path_text(path), message)


def read(path: Path, yield_gil: Breathe = no_breaks, repeated: list[Problem] | None = None) -> Document:
    """The document in the file at `path`. Raises ConfigError when it cannot be read or parsed.

    `repeated`: as with `parse`.
    """
    return parse(read_text(path), str(path), yield_gil, repeated)


def read_text(path: Path) -> str:
    """The text of the file at `path`, line ends as they are. Raises ConfigError when it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigError.of(path, f"file is larger than {MAX_FILE_BYTES} bytes")
        return content.decode("utf-8")
    except OSError as error:
        raise ConfigError.of(path, f"cannot be read: {in_words(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError.of(path, f"is not UTF-8 text (byte {error.start})") from error


def parse(
    text: str, file: str = "<text>", yield_gil: Breathe = no_breaks, repeated: list[Problem] | None = None
) -> Document:
    """The document in `text`. Raises ConfigError for bad syntax and for duplicate keys.

    `repeated`: a list for the latter, where the rest of the file is to be looked at all the same.
    """
    try:
        plain = read_plain(text, _Loader, MAX_DEPTH, yield_gil)
        if plain is not None:
            return Document._plain(file, text, plain, yield_gil)  # noqa: SLF001 - its own way of being made
        _check_depth(text, file)
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return Document(file, None, None)
            too_much = excess(root, MAX_DEPTH)
            if too_much is not None:
                raise ConfigError([Problem(file, too_much[0], "", too_much[1])])
            duplicates = _duplicate_keys(root, file)
            if duplicates and repeated is None:
                raise ConfigError(duplicates)
            if repeated is not None:
                repeated += duplicates
            return Document(file, _constructed(loader, root, file), root, text)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        line, message = in_our_words(error, text)
        raise ConfigError([Problem(file, line, "", f"is not YAML: {message}")]) from error
    except UnicodeEncodeError as error:  # half a surrogate, which no file in UTF-8 has
        raise ConfigError.of(file, "is not YAML: a character cannot be written in UTF-8") from error


def _constructed(loader: yaml.SafeLoader, root: yaml.Node, file: str) -> Any:
    """The data of the tree. Raises ConfigError for a value that is not what it looks like."""
    try:
        return loader.construct_document(root)
    except yaml.YAMLError:
        raise
    except Exception as error:  # of a date (`2026-13-45`) and a tagged value: whatever the constructor raises
        problems = [
            Problem(file, node.start_mark.line + 1, key_path_text(path), _no_value(node))
            for path, node in _nodes(root)
            if isinstance(node, yaml.ScalarNode) and not _constructs(loader, node)
        ]
        raise ConfigError(problems or [Problem(file, 0, "", "a value cannot be read")]) from error


def _constructs(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    try:
        loader.construct_object(node)
    except Exception:  # as above
        return False
    return True


def _no_value(node: yaml.ScalarNode) -> str:
    kind = node.tag.rpartition(":")[2]
    thing = {"timestamp": "date", "int": "number", "float": "number", "bool": "true or false"}.get(kind, kind)
    return f"{node.value} is not a {thing}; write it in quotes if it is text"


def _check_depth(text: str, file: str) -> None:
    """Raises ConfigError where `text` nests too deep. Reads events, which needs no recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise ConfigError([Problem(file, line, "", f"nests more than {MAX_DEPTH} levels deep")])
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Where pieces of whole lines begin and end: no other thread runs during a search of a large text."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE_CHARACTERS)
        end = len(text) if end < 0 else end
        yield start, end
        start = end


def _children(content: Any) -> list[Any]:
    """The parts of a mapping; of a mapping of places, the places below."""
    if not isinstance(content, dict):
        return [content]
    return [child[1] if isinstance(child, tuple) else child for child in content.values()]


def _child(node: yaml.Node, part: KeyPart) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        value = node.value[part]
        return value.start_mark.line + 1, value
    if isinstance(node, yaml.MappingNode):
        # From the end: a merge (`<<`) puts the merged pairs in front of the explicit ones, which win.
        for key, value in reversed(node.value):
            if key.value == str(part):
                return key.start_mark.line + 1, value
    return None


def _has_other_keys(data: Any) -> bool:
    """Whether a key in `data` is not text."""
    if isinstance(data, dict):
        return any(not isinstance(key, str) or _has_other_keys(value) for key, value in data.items())
    return isinstance(data, list) and any(map(_has_other_keys, data))


def _written(data: Any, node: yaml.Node | None) -> Any:
    """`data`, which was constructed from `node`, with keys as they are written."""
    if isinstance(node, yaml.MappingNode):
        # Merged pairs (`<<`) are in front of the explicit ones, which win.
        return {
            "" if key.tag == _NULL else key.value: _written(_constructed_from(value), value)
            for key, value in node.value
        }
    if isinstance(node, yaml.SequenceNode):
        return [_written(_constructed_from(value), value) for value in node.value]
    return data


def _constructed_from(node: yaml.Node) -> Any:
    loader = _Loader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _nodes(root: yaml.Node) -> Iterator[tuple[tuple[KeyPart, ...], yaml.Node]]:
    """Each node below and with `root`, with its key path."""
    # Anchors may make the tree a graph: each node is visited once.
    visited: set[int] = set()
    waiting: list[tuple[tuple[KeyPart, ...], yaml.Node]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        yield path, node
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(((*path, index), child) for index, child in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            waiting.extend(
                ((*path, key.value), value) for key, value in node.value if isinstance(key, yaml.ScalarNode)
            )


def _duplicate_keys(root: yaml.Node, file: str) -> list[Problem]:
    problems: list[Problem] = []
    for path, node in _nodes(root):
        if not isinstance(node, yaml.MappingNode):
            continue
        first_lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                problems.append(Problem(file, line, key_path_text(path), "a key must be plain text"))
                continue
            identity = (key.tag, key.value)
            if identity in first_lines and key.value != "<<":
                where = key_path_text((*path, key.value))
                message = f"duplicate key, first in line {first_lines[identity]}"
                problems.append(Problem(file, line, where, message))
            first_lines.setdefault(identity, line)
    return problems
