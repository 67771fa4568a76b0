"""The values of `body` in an expression, in every way that an upstream may read a body.

A client chooses whether it sends a form or JSON, and each value as a text, a number or a list of one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from authz.policy.conditions.values import is_one_of
from authz.policy.expression.comparisons import Comparisons
from authz.policy.expression.readings import MAX_COMBINED, Named, Reading, Readings, UnknownError
from authz.request.body import Body, read_body
from authz.request.request import Request

MAX_TRIED_VALUES: Final = 4_096
"""The most values of a form over all its readings, because each costs a conversion; with more, the result is
unknown."""


class _Compared:
    """The values that an expression compares fields of the body with."""

    __slots__ = ("_known", "_lists", "_members")

    def __init__(self, comparisons: Comparisons) -> None:
        self._known = {name: is_one_of(expected) for name, expected in comparisons.fields.items()}
        self._lists = comparisons.lists
        self._members = {name: is_one_of(expected) for name, expected in comparisons.members.items()}

    def is_unknown(self, name: str, value: Any) -> bool:
        """Whether only some readers take the value as equal to a compared value."""
        member = self._members.get(name)
        # PHP treats an object as a list of its values, while `in` tests the keys.
        if member is not None and isinstance(value, dict) and member(value) is None:
            return True
        known = self._known.get(name)
        if known is None or (isinstance(value, list) and name in self._lists):
            return False
        return known(value) is None


def body_readings(named: Named, comparisons: Comparisons, *, denies: bool) -> Readings:
    """Return a reader of `body`. A form has lists of values; for a deny rule also single values and members.

    The reader raises UnreadableBodyError.
    """
    compared = _Compared(comparisons)

    def read(request: Request) -> Sequence[Reading]:
        body = read_body(request)
        if body.content is None:
            raise UnknownError
        if body.is_form and denies:
            return [{"body": one} for one in _form_readings(body, named, compared)]
        for name, value in _fields(body, named.wanted.by_folded if body.is_form else named.keys):
            # Go's encoding/json takes `Role` for `role`, and JavaScript `"true"` or `[true]` for true.
            if name not in named.names or compared.is_unknown(name, value):
                raise UnknownError
        return ({"body": body.content},)

    return read


def _fields(body: Body, folded: Iterable[str]) -> Iterator[tuple[str, Any]]:
    return (field for name in folded for field in body.fields(name))


def _form_readings(form: Body, named: Named, compared: _Compared) -> Iterator[Any]:
    expected = form.content if named.whole else dict(_fields(form, named.wanted.by_folded))
    fields: dict[tuple[str, ...], list[str]] = {}
    for name, values in expected.items():
        for place in {(name,), (named.spelled(name),), named.place(name)}:
            # All values of a form are texts, which never equal a number or true.
            if any(compared.is_unknown(place[-1], value) for value in values):
                raise UnknownError
            fields.setdefault(place, []).extend(values)
    several = [values for place, values in fields.items() if not named.names.isdisjoint(place)]
    most = max(map(len, several), default=1)
    if most > MAX_COMBINED or most * len(fields) > MAX_TRIED_VALUES:
        raise UnknownError
    yield expected
    yield _nested(fields)
    for at in range(most):
        yield _nested({place: values[min(at, len(values) - 1)] for place, values in fields.items()})


def _nested(fields: Mapping[tuple[str, ...], Any]) -> Any:
    """Return the fields nested like PHP, Rack and qs read `user[role]=x`."""
    tree: dict[str, Any] = {}
    for (*above, name), value in fields.items():
        node = tree
        for one in above:
            node = node.setdefault(one, {})
            if not isinstance(node, dict):
                raise UnknownError
        if name in node:
            raise UnknownError
        node[name] = value
    return tree
