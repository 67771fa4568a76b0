"""Formats policy files: keys in order, indentation of two spaces, blank lines between rules.

It only moves and indents whole lines, and a comment moves with the lines below it. A parser that writes YAML
again (ruamel.yaml) attaches a comment to the value *above* it, so a key that moves would take the wrong
comment.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import yaml

from authz.policy.model import ConditionConfig, DefaultsConfig, PolicyFile, RuleConfig
from common.configfile import ConfigError, parse

STEP: Final = 2
"""The number of spaces per level of indentation."""

_FIRST: Final = ("name", "owner", "ticket", "mode", "inherit", "if", "hosts", "methods", "paths")
"""The first keys of a rule: its name and scope; then come its conditions, then the callers."""
_LAST: Final = ("deny", "allow", "answer")
_OTHER_BREAKS: Final = re.compile("[\r\x85\u2028\u2029]")
"""Line breaks of YAML other than LF; a text with one is not formatted."""


def _keys(model: Any) -> tuple[str, ...]:
    return tuple(field.alias or name for name, field in model.model_fields.items())


def _rule_keys() -> tuple[str, ...]:
    conditions = [name for name in _keys(ConditionConfig) if name not in _FIRST]
    known = {*_FIRST, *conditions, *_LAST}
    return (*_FIRST, *conditions, *_LAST, *(name for name in _keys(RuleConfig) if name not in known))


_ORDERS: Final[Mapping[tuple[str, ...], tuple[str, ...]]] = {
    (): _keys(PolicyFile),
    ("rules", "*"): _rule_keys(),
    ("conditions", "*"): _keys(ConditionConfig),
    ("defaults", "*"): tuple(name for name in _rule_keys() if name in _keys(DefaultsConfig)),
}
"""The order of keys by key path. Elsewhere the order stays as written."""


def format_policy(text: str, file: str = "<text>") -> str:
    """Return `text` formatted. Raises ConfigError if it is not YAML or cannot be formatted.

    The meaning never changes, apart from the order of keys. Where that order matters, because an alias
    (`*name`) must follow its anchor (`&name`), it stays as written, and so does text in braces or brackets.
    """
    data = parse(text, file).data
    if not isinstance(data, dict) or _OTHER_BREAKS.search(text):
        return text
    if not _is_block(_root(text)):
        return text
    content = (_meaning(text), _comments(text))
    for order in (_ordered, _ordered_within, str):
        try:
            tidied = _spaced(order(_indented(text)))
            if (_meaning(tidied), _comments(tidied)) == content:
                return tidied
        except yaml.YAMLError:
            continue
    raise ConfigError.of(file, "cannot be formatted without a change of meaning; it stays as it is")


def _comments(text: str) -> list[str]:
    return sorted(line.strip() for line in text.split("\n") if line.lstrip().startswith("#"))


_Events = Iterator[Any]
"""The events of PyYAML, which have no common type."""


def _events(text: str) -> _Events:
    """Return the events of the document, whose depth `configfile.parse` has checked."""
    # The loader of `configfile`: PyYAML's own reads some texts differently (`{url: /a?b}`).
    events = yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return (event for event in events if isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent))


def _below(events: _Events) -> Iterator[Any]:
    """Yield the first event of each node in the current collection; the caller must read the whole node."""
    while not isinstance(event := next(events), yaml.CollectionEndEvent):
        yield event


def _meaning(text: str) -> object:
    """Return the content of the text, regardless of key order. Raises YAMLError if an alias has no anchor.

    Aliases stay aliases: the parsed data would have a value for each, which may be shared or contain itself.
    """
    events = _events(text)
    anchors: dict[str, object] = {}

    def content(event: Any, place: tuple[object, ...]) -> object:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise yaml.YAMLError(f"{event.anchor} has no anchor")
            return ("alias", anchors[event.anchor])
        if event.anchor is not None:
            anchors[event.anchor] = place
        if isinstance(event, yaml.ScalarEvent):
            return (event.tag, event.implicit, event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            entries = (content(one, (*place, number)) for number, one in enumerate(_below(events)))
            return (event.tag, list(entries))
        pairs: dict[object, list[object]] = {}
        for one in _below(events):
            key = content(one, (*place, "key", getattr(one, "value", None)))
            values = pairs.setdefault(repr(key), [])
            values.append(content(next(events), (*place, repr(key), len(values))))
        return (event.tag, pairs)

    return content(next(events), ())


def _root(text: str) -> yaml.MappingNode:
    """Return the nodes of the text at their places; an alias is a node of its own."""
    events = _events(text)
    root = _node(next(events), events)
    if not isinstance(root, yaml.MappingNode):
        raise yaml.YAMLError("it is not a mapping after formatting")
    return root


def _node(event: Any, events: _Events) -> yaml.Node:
    start, end, kind = event.start_mark, event.end_mark, type(event)
    if kind is yaml.AliasEvent:
        return yaml.ScalarNode("", event.anchor, start, end)
    if kind is yaml.ScalarEvent:
        return yaml.ScalarNode("", event.value, start, end)
    style = event.flow_style
    children: list[yaml.Node] = []
    while type(event := next(events)) not in {yaml.SequenceEndEvent, yaml.MappingEndEvent}:
        children.append(_node(event, events))
    if kind is yaml.SequenceStartEvent:
        return yaml.SequenceNode("", children, start, event.end_mark, style)
    pairs = list(zip(children[::2], children[1::2], strict=True))
    return yaml.MappingNode("", pairs, start, event.end_mark, style)


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style and bool(node.value)


@dataclass(frozen=True, slots=True)
class _Place:
    """The column at which the content of a line begins, and its target column."""

    column: int
    target: int
    dash: bool


def _indented(text: str) -> str:
    """Return the text with every line indented."""
    lines = text.split("\n")
    root = _root(text)
    places: dict[int, _Place] = {}
    _add_places(root, 0, places)
    opaque = _opaque_lines(root)
    written: list[str] = []
    comments: list[int] = []
    shift = 0
    for number, line in enumerate(lines):
        place = places.get(number)
        if number in opaque or (place is None and line.strip() and not line.lstrip().startswith("#")):
            written.append(" " * shift + line if shift > 0 else line[min(-shift, _indent_of(line)) :])
            continue
        if place is None:
            comments.append(len(written))
            written.append(line.strip())
            continue
        edge = place.target - STEP if place.dash else place.target
        for comment in comments:
            written[comment] = f"{' ' * edge}{written[comment]}".rstrip()
        comments = []
        shift = place.target - place.column
        written.append(f"{' ' * edge}{'- ' if place.dash else ''}{line[place.column :]}".rstrip())
    return "\n".join(written)


def _add_places(node: yaml.Node, indent: int, places: dict[int, _Place]) -> None:
    if isinstance(node, yaml.MappingNode) and _is_block(node):
        for key, value in node.value:
            places.setdefault(key.start_mark.line, _Place(key.start_mark.column, indent, dash=False))
            if value.start_mark.line > key.start_mark.line:
                _add_places(value, indent + STEP, places)
    elif isinstance(node, yaml.SequenceNode) and _is_block(node):
        for item in node.value:
            places.setdefault(item.start_mark.line, _Place(item.start_mark.column, indent + STEP, dash=True))
            if isinstance(item, yaml.MappingNode):
                _add_places(item, indent + STEP, places)


def _opaque_lines(root: yaml.Node) -> set[int]:
    """Return the lines that continue a value: of long text, and within braces or brackets."""
    opaque: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if _is_block(node):
            waiting += [
                one for entry in node.value for one in (entry if isinstance(entry, tuple) else (entry,))
            ]
        else:
            end = node.end_mark.line + (1 if node.end_mark.column else 0)
            opaque.update(range(node.start_mark.line + 1, end))
    return opaque


def _ordered(text: str) -> str:
    """Sort all keys, those of the file last, because their lines contain all others."""
    lines = _ordered_within(text).split("\n")
    _reorder(lines, _root(text), len(lines), _ORDERS[()])
    return "\n".join(lines)


def _ordered_within(text: str) -> str:
    """Sort the keys of each rule, condition and default, but not those of the file."""
    lines = text.split("\n")
    for path, node, stop in _inner_blocks(_root(text), lines):
        _reorder(lines, node, stop, _ORDERS[path, "*"])
    return "\n".join(lines)


def _inner_blocks(
    root: yaml.MappingNode, lines: Sequence[str]
) -> Iterator[tuple[str, yaml.MappingNode, int]]:
    """Yield each rule, condition and default in block style, and the line after it."""
    starts = [key.start_mark.line for key, _ in root.value]
    for position, (key, value) in enumerate(root.value):
        if key.value not in {"rules", "conditions", "defaults"} or not _is_block(value):
            continue
        stop = _stop(starts, position, len(lines), lines)
        named = isinstance(value, yaml.MappingNode)
        entries = [
            (one[0].start_mark.line, one[1]) if named else (one.start_mark.line, one) for one in value.value
        ]
        for place, (_, inner) in enumerate(entries):
            if isinstance(inner, yaml.MappingNode) and _is_block(inner):
                yield key.value, inner, _stop([line for line, _ in entries], place, stop, lines)


def _reorder(lines: list[str], node: yaml.MappingNode, end: int, order: Sequence[str]) -> None:
    starts = [key.start_mark.line for key, _ in node.value]
    stop = _stop(starts, len(starts) - 1, end, lines)
    column = node.value[0][0].start_mark.column
    first = lines[starts[0]]
    dash = first.lstrip().startswith("- ")
    if any(
        lines[key.start_mark.line][: key.start_mark.column].strip() not in {"", "-"} for key, _ in node.value
    ):
        return  # text before a key (an anchor, a tag, `? `) does not belong to the key alone
    if dash:
        lines[starts[0]] = " " * column + first[column:]
    rank = {name: place for place, name in enumerate(order)}
    begin = starts[0] if dash else _above(starts[0], _header(lines, starts[0]), lines)
    chunks = []
    for position, (key, _) in enumerate(node.value):
        start = begin if position == 0 else _above(starts[position], starts[position - 1] + 1, lines)
        after = _stop(starts, position, end, lines)
        chunks.append((rank.get(key.value, len(rank)), starts[position] - start, lines[start:after]))
    chunks.sort(key=lambda chunk: chunk[0])
    if dash:
        _, comments, chunk = chunks[0]
        moved = [f"{' ' * (column - STEP)}{line.strip()}".rstrip() for line in chunk[:comments]]
        chunk[:] = [*moved, f"{' ' * (column - STEP)}- {chunk[comments][column:]}", *chunk[comments + 1 :]]
    lines[begin:stop] = [line for _, _, chunk in chunks for line in chunk]


def _stop(starts: Sequence[int], position: int, end: int, lines: Sequence[str]) -> int:
    """Return the line after an entry: the first comment above the next entry, or the end."""
    if position + 1 == len(starts):
        # Comments at the very end belong to no key.
        while end > starts[position] + 1 and (not lines[end - 1].strip() or _is_comment(lines[end - 1])):
            end -= 1
        return end
    return _above(starts[position + 1], starts[position] + 1, lines)


def _above(line: int, lowest: int, lines: Sequence[str]) -> int:
    """Return the first of the comment lines above `line`, which blank lines may separate."""
    first = line
    while line > lowest and (not lines[line - 1].strip() or _is_comment(lines[line - 1])):
        line -= 1
        if lines[line].strip():
            first = line
    return first


def _header(lines: Sequence[str], first_key: int) -> int:
    """Return the line after the comments about the file, which a blank line follows."""
    blank = [number for number in range(first_key) if not lines[number].strip()]
    return blank[-1] + 1 if blank else 0


def _spaced(text: str) -> str:
    """Put one blank line before each key of the file and between entries of several lines."""
    lines = text.split("\n")
    root = _root(text)
    opaque = _opaque_lines(root)
    starts = [key.start_mark.line for key, _ in root.value]
    apart = {_above(start, starts[place], lines) for place, start in enumerate(starts[1:])}
    for key, value in root.value:
        if key.value in {"rules", "conditions", "defaults"} and _is_block(value):
            marks = [(one[0] if isinstance(one, tuple) else one).start_mark.line for one in value.value]
            if any(later - one > 1 for one, later in pairwise(marks)):
                apart |= {_above(line, marks[place] + 1, lines) for place, line in enumerate(marks[1:])}
    written: list[str] = []
    for number, line in enumerate(lines):
        if number in apart and written and written[-1]:
            written.append("")
        if line or number in opaque or (written and written[-1]):
            written.append(line)
    return "\n".join(written).strip("\n") + "\n"


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _indent_of(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
