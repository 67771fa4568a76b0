"""The quick reader agrees with the loader, or leaves the document to the loader."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common.configfile.document import MAX_DEPTH, Document, _Loader, parse
from common.configfile.quick import read_plain

TEXTS = [
    "a: 1\nb: [x, 'y', 2.5, true, null, ~, 2026-01-05, 0x10, yes, .inf]\n",
    "c:\n  - d: |\n      text\n    e: {f: g}\n",
    "- a\n-\n  - b\n  - c: d\n",
    "a:\n- b\n- c\n",
    "'1': x\n\"two\": y\n",
    "a: {}\nb: []\nc:\n",
    "a: 2026-01-05T11:30:00Z\nb: 1_000\nc: 012\nd: '012'\ne: 1:30\n",
]


@pytest.mark.parametrize("text", TEXTS)
def test_plain_yaml_gives_the_same_data_and_the_same_lines(text: str) -> None:
    found = read_plain(text, _Loader, MAX_DEPTH)
    assert found is not None
    quick = Document._plain("f", text, found)
    slow = Document("f", yaml.load(text, Loader=_Loader), yaml.compose(text, Loader=_Loader))
    assert quick.data == slow.data
    assert [type(value) for value in _leaves(quick.data)] == [type(value) for value in _leaves(slow.data)]
    for path in _paths(slow.data):
        assert quick.line(path) == slow.line(path), path
        assert quick.text(path) == slow.text(path), path


@pytest.mark.parametrize(
    "text",
    [
        "a: &x 1\nb: *x\n",
        "a: !!str 1\n",
        "base: &b {x: 1}\nc: {<<: *b}\n",
        "1: a\n",
        "a: 1\na: 2\n",
        "? [a]\n: b\n",
        "a: 1\n---\nb: 2\n",
        "a: [\n",
        "scalar",
        "",
    ],
)
def test_what_is_not_plain_is_left_to_the_loader(text: str) -> None:
    assert read_plain(text, _Loader, MAX_DEPTH) is None


@given(
    st.recursive(
        st.one_of(st.text(max_size=8), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    st.sampled_from([True, False, None]),
)
def test_whatever_yaml_is_written_is_read_as_the_loader_reads_it(content: object, flow: bool | None) -> None:
    text = yaml.safe_dump(content, default_flow_style=flow, allow_unicode=True)
    found = read_plain(text, _Loader, MAX_DEPTH)
    if found is not None:
        assert found[0] == yaml.load(text, Loader=_Loader)


def test_what_is_let_go_is_empty() -> None:
    document = parse("a: [1, 2]\nb: {c: d}\n")
    document.let_go()
    assert (document.data, document.line(("a",))) == (None, 0)


def _leaves(data: object) -> list[object]:
    if isinstance(data, dict):
        return [leaf for value in data.values() for leaf in _leaves(value)]
    if isinstance(data, list):
        return [leaf for value in data for leaf in _leaves(value)]
    return [data]


def _paths(data: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    paths = [path, (*path, "no such key")]
    if isinstance(data, dict):
        paths += [one for key, value in data.items() for one in _paths(value, (*path, key))]
    if isinstance(data, list):
        paths += [one for place, value in enumerate(data) for one in _paths(value, (*path, place))]
    return paths
