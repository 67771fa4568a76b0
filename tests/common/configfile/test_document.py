"""Reading YAML: valid and invalid documents, and the line of every value."""

from pathlib import Path

import pytest

from common.configfile import ConfigError, parse, read
from common.configfile.document import MAX_DEPTH, MAX_FILE_BYTES

TEXT = """\
name: edge
listen:
  - 127.0.0.1:9001
  - unix:/run/a.sock
nested:
  deep:
    value: 3
"""


def error_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    return str(caught.value)


def test_data_is_plain_python() -> None:
    assert parse(TEXT).data == {
        "name": "edge",
        "listen": ["127.0.0.1:9001", "unix:/run/a.sock"],
        "nested": {"deep": {"value": 3}},
    }


def test_every_value_knows_its_line() -> None:
    document = parse(TEXT)
    assert document.line(("name",)) == 1
    assert document.line(("listen",)) == 2
    assert document.line(("listen", 1)) == 4
    assert document.line(("nested", "deep", "value")) == 7


def test_a_path_that_does_not_exist_has_the_line_of_its_closest_ancestor() -> None:
    document = parse(TEXT)
    assert document.line(("nested", "deep", "missing")) == 6
    assert document.line(("listen", 9)) == 2
    assert document.line(("name", "below", "a scalar")) == 1
    assert document.line(("nothing",)) == 1


def test_a_merged_key_has_its_own_line_and_a_direct_key_wins() -> None:
    document = parse("a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  x: 3\n")
    assert document.data["b"] == {"x": 3, "y": 2}
    assert document.line(("b", "x")) == 6
    assert document.line(("b", "y")) == 3


def test_an_empty_document_has_no_data_and_no_line() -> None:
    document = parse("# only a comment\n")
    assert document.data is None
    assert document.line(("a",)) == 0


def test_a_byte_order_mark_is_not_part_of_the_first_key() -> None:
    assert parse("\ufeffa: 1").data == {"a": 1}


def test_a_problem_names_file_line_and_key_path() -> None:
    document = parse(TEXT, "edge.yaml")
    assert str(document.problem(("listen", 1), "is wrong")) == "edge.yaml:4: listen[1]: is wrong"


def test_every_duplicate_key_is_named_with_both_lines() -> None:
    assert error_of("a: 1\nb:\n  - c: 1\n    c: 2\na: 3\n").splitlines() == [
        "f.yaml:4: b[0].c: duplicate key, first in line 3",
        "f.yaml:5: a: duplicate key, first in line 1",
    ]


def test_two_merges_in_one_mapping_are_not_duplicates() -> None:
    assert parse("<<: {a: 1}\n<<: {b: 2}\n").data == {"a": 1, "b": 2}


def test_keys_can_be_had_as_they_are_written() -> None:
    """To Python `1` and `true` are one key."""
    document = parse("a:\n  1: x\n  true: y\n  deep: [{0x10: 1, ~: 2}]\nb: {text: 3}\n")
    assert document.data["a"] == {1: "y", "deep": [{16: 1, None: 2}]}
    written = document.with_written_keys(("a",), document.data["a"])
    assert written == {"1": "x", "true": "y", "deep": [{"0x10": 1, "": 2}]}
    assert document.with_written_keys(("b",), document.data["b"]) is document.data["b"]


def test_a_key_that_is_not_a_scalar_is_a_problem() -> None:
    assert error_of("a: 1\n? {b: c}\n: d\n") == "f.yaml:2: a key must be plain text"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "f.yaml:1: is not YAML: a colon where no key ends: a value with a colon is in quotes"),
        ("a:\n- 1\n b: 2", "f.yaml:3: is not YAML: a colon where no key ends"),
        ("a: 1\nb: [1, 2", "f.yaml:2: is not YAML: a [ has no closing ], or a comma is missing"),
        ("a: 1\nb: {c: 2", "f.yaml:2: is not YAML: a { has no closing }, or a comma is missing"),
        ("a:\n\t- b", "f.yaml:2: is not YAML: a tab; lines are indented with spaces"),
        ("a:\n  b: 1\n\tc: 2", "f.yaml:3: is not YAML: a tab; lines are indented with spaces"),
        ("a:\n  b: 1\n c: 2", "f.yaml:3: is not YAML: this does not fit what is above"),
        ('a: "b" c', "f.yaml:1: is not YAML: this does not fit what is above"),
        ("a: @b", "f.yaml:1: is not YAML: a value cannot begin with @; write it in quotes"),
        ("a: [**]", "f.yaml:1: is not YAML: a name follows * and &"),
        ("a: [1,,2]", "f.yaml:1: is not YAML: a value is expected here, not ,"),
        ("a: 1\nb: ]", "f.yaml:2: is not YAML: a value is expected here, not ]"),
        ("a: 1\nb: [", "f.yaml:2: is not YAML: a value is expected here, not the end"),
        ("a: 1\nb: 'c\nd: 1\n", "f.yaml:2: is not YAML: a quote is not closed"),
        (r'a: "\d"', "f.yaml:1: is not YAML: an escape that does not exist: in single quotes"),
        (r'a: "\ud800"', "f.yaml:1: is not YAML: an escape of half a character"),
        ("a: 1\nb\nc: 2", "f.yaml:2: is not YAML: a key has no colon and value"),
        ("a: - b", "f.yaml:1: is not YAML: a list begins within the line of its key"),
        ("a: |x\n b", "f.yaml:1: is not YAML: only a line end, + or - follows | and >"),
        ("a: 1\n---\nb: 2", "f.yaml:2: is not YAML: a second document begins (---)"),
        ("a: *nowhere", "f.yaml:1: is not YAML: *nowhere is the name of an anchor that is not above"),
        ("a: &b 1\nc: &b 2", "f.yaml:2: is not YAML: duplicate anchor &b"),
        ("a: !!python/object:os.system x", "f.yaml:1: is not YAML: the tag !!python/object:os.system is"),
        ("a: !include b", "f.yaml:1: is not YAML: the tag !include is unknown"),
        ("<<: 2", "f.yaml:1: is not YAML: << takes an alias of a block"),
        ("a: !<x b", "f.yaml:1: is not YAML: it cannot be read from here on"),
        (
            "a: 1\nb: [1, 2024-13-45]",
            "f.yaml:2: b[1]: 2024-13-45 is not a date; write it in quotes",
        ),
        ("a: !!timestamp never", "f.yaml:1: a: never is not a date"),
        ("a: !!int x", "f.yaml:1: a: x is not a number"),
        ("a: 1\nb: \0", "f.yaml:2: is not YAML: a control character"),
        ('a: "\ud83d"', "f.yaml: is not YAML: a character cannot be written in UTF-8"),
    ],
)
def test_bad_syntax_is_one_line_that_says_where(text: str, message: str) -> None:
    error = error_of(text)
    assert error.startswith(message)
    assert "\n" not in error
    assert not any(word in error for word in ("context", "scalar", "node", "token", "stream", "mapping"))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_deep_nesting_is_an_error_and_no_crash_of_the_process(opening: str, closing: str) -> None:
    """The C loader recurses: 200,000 brackets would end the process with a stack overflow."""
    error = error_of(opening * 200_000 + "1" + closing * 200_000)
    assert error == f"f.yaml:1: nests more than {MAX_DEPTH} levels deep"


def test_nesting_up_to_the_limit_parses() -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH).data


def test_read_names_the_file_in_every_error(tmp_path: Path) -> None:
    path = tmp_path / "edge.yaml"
    with pytest.raises(ConfigError, match=rf"^{path}: cannot be read: no such file or folder$"):
        read(path)
    path.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match=rf"^{path}: is not UTF-8 text \(byte 3\)$"):
        read(path)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}: cannot be read: it is a folder, and"):
        read(tmp_path)
    path.write_text(TEXT)
    assert read(path).file == str(path)


def test_a_file_over_the_size_limit_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "core"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match="larger than"):
        read(path)


def repeated(levels: int, times: int, line: str) -> str:
    """Return a file in which each level is an alias of the one before, so many times."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * times)
        lines.append(line.format(level=level, aliases=aliases))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "line", ["a{level}: &a{level} [{aliases}]", "a{level}: &a{level} {{<<: [{aliases}]}}"]
)
def test_aliases_of_aliases_are_refused_before_anything_looks_at_each_value(line: str) -> None:
    assert error_of(repeated(9, 10, line)) == "f.yaml:6: aliases repeat more than 100000 values"
    assert parse(repeated(3, 10, line)).data


def test_aliases_do_not_nest_deeper_than_a_file_may() -> None:
    text = repeated(3 * MAX_DEPTH, 1, "a{level}: &a{level} [{aliases}]")
    assert f"nests more than {MAX_DEPTH} levels deep" in error_of(text)


def test_an_alias_inside_its_own_anchor_is_read() -> None:
    data = parse("a: &a [1, *a]").data
    assert data["a"][1] is data["a"]


def test_a_large_file_may_have_an_alias() -> None:
    values = "\n".join(f"  - {{n: {number}}}" for number in range(60_000))
    assert len(parse(f"a: &a 1\nb: *a\nvalues:\n{values}\n").data["values"]) == 60_000
