"""Validation of a document by a model: every problem, at its line, in words for the author of the file."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from common.configfile import ConfigError, Problem, key_path_text, parse, validate


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class File(Strict):
    type: Literal["file"]
    path: str


class Stdout(Strict):
    type: Literal["stdout"]


class Inner(Strict):
    port: int = Field(ge=1, le=65535)
    host: str = "localhost"

    @field_validator("host")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value:
            raise ValueError("must not be empty; write a name, as in example.com")
        return value


class Model(Strict):
    inner: Inner
    sinks: tuple[Annotated[File | Stdout, Field(discriminator="type")], ...] = ()


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(parse(text, "f.yaml"), Model)
    return str(caught.value).splitlines()


def test_a_good_document_becomes_the_model() -> None:
    assert validate(parse("inner: {port: 80}"), Model).inner.port == 80


def test_every_problem_is_found_and_sorted_by_line() -> None:
    assert problems("sinks:\n  - type: file\ninner:\n  port: 0\n  host: ''\n  hots: x\n") == [
        "f.yaml:2: sinks[0].path: is required",
        "f.yaml:4: inner.port: expected at least 1, not 0",
        "f.yaml:5: inner.host: must not be empty; write a name, as in example.com",
        "f.yaml:6: inner.hots: unknown key; did you mean 'host'?",
    ]


def test_a_missing_key_is_named_at_the_mapping_that_lacks_it() -> None:
    assert problems("sinks: []\ninner:\n  host: a\n") == ["f.yaml:2: inner.port: is required"]


def test_an_empty_file_lacks_what_is_required() -> None:
    assert problems("") == ["f.yaml: inner: is required"]


def test_a_discriminator_is_not_part_of_the_key_path() -> None:
    assert problems("inner: {port: 1}\nsinks:\n  - {type: stdout, path: x}\n") == [
        "f.yaml:3: sinks[0].path: unknown key; known here: type"
    ]


def test_a_suggestion_is_a_key_that_would_be_right_in_this_place() -> None:
    assert problems("inner: {port: 1, pahts: x, typ: 1}\nsinks: [{type: file, path: a, paht: b}]\n") == [
        "f.yaml:1: inner.pahts: unknown key; known here: host, port",
        "f.yaml:1: inner.typ: unknown key; known here: host, port",
        "f.yaml:2: sinks[0].paht: unknown key; did you mean 'path'?",
    ]


def test_a_key_far_from_every_known_one_gets_the_list() -> None:
    assert problems("inner: {port: 1}\nzzzzzz: 1\n") == [
        "f.yaml:2: zzzzzz: unknown key; known here: inner, sinks"
    ]


@pytest.mark.parametrize("text", ["inner: 5", "inner: [1]", "inner: text"])
def test_a_value_in_place_of_keys_is_reported(text: str) -> None:
    assert problems(text)[0].startswith("f.yaml:1: inner: expected keys and values")


def test_a_file_that_is_not_a_mapping_says_so() -> None:
    assert problems("- a\n") == ["f.yaml:1: expected keys and values, not a list"]


def test_a_value_of_the_wrong_type_is_shown() -> None:
    assert problems("inner: {port: many}") == ["f.yaml:1: inner.port: expected a whole number, not 'many'"]


class Ports(Strict):
    ports: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)


def test_a_list_that_is_too_short_says_how_many_entries_it_needs() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(parse("ports: []", "f.yaml"), Ports)
    assert str(caught.value) == "f.yaml:1: ports: expected at least 1 item, not 0"


def test_a_bad_item_does_not_make_its_list_too_short() -> None:
    """Pydantic omits the item and then counts."""
    with pytest.raises(ConfigError) as caught:
        validate(parse("ports: [0]", "f.yaml"), Ports)
    assert [problem.key_path for problem in caught.value.problems] == ["ports[0]"]


def test_the_value_of_an_unknown_key_is_never_shown() -> None:
    """The value may be a password in the wrong place."""
    assert "hunter2" not in "".join(problems("inner: {port: 1, password: hunter2}"))


def test_a_key_path_reads_as_people_write_it() -> None:
    assert key_path_text(("rules", 3, "match", "hosts", 0)) == "rules[3].match.hosts[0]"
    assert key_path_text((0, "a")) == "[0].a"
    assert not key_path_text(())


def test_a_problem_without_a_line_concerns_the_file() -> None:
    assert str(Problem("f.yaml", 0, "", "is empty")) == "f.yaml: is empty"
