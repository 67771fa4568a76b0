"""One answer made of those of several workers."""

from typing import Any

import orjson
import pytest

from sidecars.runtime.worker_pages import Said, merged

JSON = {"Content-Type": "application/json; charset=utf-8"}


def said(value: Any, status: int = 200) -> Said:
    return Said(status, orjson.dumps(value), JSON)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([[1, 2], [3]], [1, 2, 3]),
        ([{"found": [1]}, {"found": [2]}], {"found": [1, 2]}),
        ([{"revision": "a", "rules": 3}] * 2, {"revision": "a", "rules": 3}),
        ([{"kept": 3}, {"kept": 4}], {"kept": {"0": 3, "1": 4}}),
        ([{"one": 1}, {"two": 2}], {"one": 1, "two": 2}),
        ([{"inner": {"list": [1]}}, {"inner": {"list": [2]}}], {"inner": {"list": [1, 2]}}),
    ],
)
def test_json_answers_become_one(answers: list[Any], expected: Any) -> None:
    answer = merged([said(value) for value in answers])
    assert isinstance(answer.body, bytes)
    assert (answer.status, orjson.loads(answer.body)) == (200, expected)
    assert answer.content_type == "application/json"


def test_what_one_worker_knows_is_found_although_another_does_not() -> None:
    answer = merged([said({"error": "no such decision"}, 404), said([{"id": "d1"}])])
    assert (answer.status, answer.body) == (200, b'[{"id":"d1"}]')


def test_where_no_worker_has_a_good_answer_the_first_one_stands() -> None:
    assert merged([said({"error": "one"}, 404), said({"error": "two"}, 400)]).status == 404


def test_other_texts_follow_one_another() -> None:
    texts = [Said(200, text, {"Content-Type": "text/plain"}) for text in (b"one\n", b"two\n")]
    assert merged(texts).body == b"one\ntwo\n"


def test_no_answer_at_all_is_503() -> None:
    assert merged([]).status == 503
