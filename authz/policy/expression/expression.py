"""`when:` conditions in the Common Expression Language, for tests that the other keys cannot express.

The library (common-expression-language, a binding of the Rust crate `cel`) evaluates in about a microsecond;
converting values costs more. So it gets only the variables that the expression uses, and the attributes of a
caller are converted once for all requests of that caller.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from authz.policy.conditions.condition import Condition, Subject
from authz.policy.conditions.values import either_reading
from authz.policy.expression.body_readings import body_readings
from authz.policy.expression.calls import FUNCTION_NAMES
from authz.policy.expression.check import check_kinds, unknown
from authz.policy.expression.kinds import TYPE_NAMES, VARIABLE_KINDS
from authz.policy.expression.readings import (
    PATH_VARIABLES,
    Named,
    Reading,
    Readings,
    bind,
    combined,
    header_readings,
    path_readings,
    query_readings,
    with_parts,
)
from authz.policy.expression.wording import what_is_wrong, why_failed
from authz.policy.types.paths import EXACT, PathMatching
from authz.policy.types.pattern import Template
from authz.request.body import UnreadableBodyError, fields_of
from authz.request.identity import CredentialKind, Identity
from authz.request.request import Request

if TYPE_CHECKING:
    import cel

MAX_EXPRESSION_CHARACTERS: Final = 4_096
"""The longest expression. A longer one is a program, and the parser recurses."""

MAX_CALLERS: Final = 1_024
"""The most callers whose converted attributes are cached, at a few KB each."""

CALLER_VARIABLES: Final = ("kind", "subject", "issuer", "scopes", "roles", "audiences", "claims")
_PLAIN: Final[Mapping[str, Callable[[Request, float], Any]]] = {
    "method": lambda request, _now: request.method,
    "host": lambda request, _now: request.host,
    "client": lambda request, _now: request.client_address or None,
    "peer": lambda request, _now: request.peer_principal or None,
    "now": lambda _request, now: datetime.fromtimestamp(now, UTC),
    "context_extensions": lambda request, _now: request.all_context(),
}
"""The variables that have only one reading."""
_SHOWN: Final[Mapping[str, Callable[[Request, float], Any]]] = {
    **_PLAIN,
    # Decoded: `%61dmin` must equal `admin`.
    "path": lambda request, _now: "/" + "/".join(request.path.segments),
    "segments": lambda request, _now: list(request.path.segments),
    "headers": lambda request, _now: with_parts(request.all_headers()),
    "query": lambda request, _now: request.all_query(),
    "body": lambda request, _now: fields_of(request),
}
"""The values that explanations show: the request as it was received."""
VARIABLES: Final = tuple(VARIABLE_KINDS)
_BULKY: Final = frozenset({"headers", "query", "body"})
"""Variables removed from the cached context of a caller, because clients choose their size."""

_MACRO_NAME: Final = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_PATH_VARIABLE: Final = re.compile(
    r"\bvars\s*\.\s*([A-Za-z_]\w*)|\bvars\s*\[\s*[\"']([A-Za-z_]\w*)[\"']\s*\]"
)
_HAS: Final = re.compile(r"\bhas\s*\(\s*vars\b|\bin\s+vars\b")


class Expression:
    """A compiled expression. Raises ValueError if the text is not valid or can never be true or false."""

    __slots__ = ("compared", "path_variables", "program", "text", "variables")

    def __init__(self, text: str) -> None:
        # Imported here, because the package includes a command line and takes 0.2 s to import.
        import cel

        if len(text) > MAX_EXPRESSION_CHARACTERS:
            raise ValueError(f"an expression has at most {MAX_EXPRESSION_CHARACTERS} characters")
        self.text = " ".join(text.split())
        try:
            self.program = cel.compile(text)
        except ValueError as error:
            raise ValueError(f"is not a CEL expression: {what_is_wrong(text, str(error))}") from None
        bound = set(_MACRO_NAME.findall(text))
        named = set(self.program.variables())
        self.compared = check_kinds(text)
        for name in sorted(self.program.functions()):
            if name[0].isalpha() and name not in FUNCTION_NAMES:
                known = ", ".join(sorted(FUNCTION_NAMES))
                raise ValueError(f"the function {name!r} does not exist; known: {known}")
        for name in sorted(named - bound - TYPE_NAMES - VARIABLE_KINDS.keys()):
            raise ValueError(unknown(name, text))
        self.variables = tuple(name for name in VARIABLES if name in named)
        guarded = _HAS.search(text) is not None
        self.path_variables = (
            frozenset() if guarded else frozenset(a or b for a, b in _PATH_VARIABLE.findall(text))
        )

    @property
    def never(self) -> bool:
        """Whether it has the same result for every request, and that is not true."""
        return not self.variables and self._constant() is not True

    @property
    def fails(self) -> bool:
        """Whether it fails for every request."""
        return not self.variables and self._constant() is None

    def _constant(self) -> bool | None:
        """Return its result without variables; None if it fails."""
        try:
            return bool(self.program.execute({}))
        except Exception:  # the library raises many types
            return None

    @property
    def subject(self) -> Subject:
        """What the expression tests: the caller if it uses any variable of the caller, else the request."""
        return Subject.REQUEST if not set(self.variables) & set(CALLER_VARIABLES) else Subject.CALLER

    def __str__(self) -> str:
        return self.text


class Callers:
    """Caches the converted attributes of callers between requests. One per policy, for one thread."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        # By identity of the object, which the value keeps alive, so that no address is used again.
        self._known: dict[int, tuple[Identity, cel.Context]] = {}

    def context(self, identity: Identity) -> "cel.Context":
        """Return the variables that describe this caller. Attributes it lacks are undefined variables."""
        known = self._known.get(id(identity))
        if known is not None:
            return known[1]
        import cel

        context = cel.Context(variables=_caller_variables(identity))
        if len(self._known) >= MAX_CALLERS:
            del self._known[next(iter(self._known))]
        self._known[id(identity)] = (identity, context)
        return context


def expression_condition(
    expression: Expression,
    templates: Sequence[Template],
    callers: Callers,
    name: str = "",
    *,
    denies: bool = False,
    matching: PathMatching = EXACT,
) -> Condition:
    """Return the condition that the expression is true. `templates` are the paths of the rule, for `vars`.

    The result is unknown if the expression fails or is neither true nor false. If upstreams may read the
    request in several ways, all readings must match for an allow rule, any reading for a deny rule.
    """
    execute = expression.program.execute
    plain = tuple((key, _PLAIN[key]) for key in expression.variables if key in _PLAIN)
    several = _several_readings(expression, templates, denies=denies, matching=matching)
    bulky = tuple(key for key in expression.variables if key in _BULKY)

    def test(identity: Identity, request: Request, now: float) -> bool | None:
        context = None
        try:
            # Inside the try, because the library cannot convert every claim: half a surrogate, for example.
            context = callers.context(identity)
            for key, read in plain:
                value = read(request, now)
                if value is None:
                    return None
                context.add_variable(key, value)
            differing = []
            for readings in several:
                found = readings(request)
                if len(found) > 1:
                    differing.append(found)
                else:
                    _add(context, found[0])
            if differing:
                return _over(differing, execute, context, denies=denies)
            result = execute(context)
        except Exception:  # the library raises many types: KeyError, TypeError, ZeroDivisionError...
            return None
        finally:
            if context is not None:
                for key in bulky:
                    context.add_variable(key, None)
        return result if isinstance(result, bool) else None

    def seen(identity: Identity, request: Request, now: float) -> str:
        return _seen(expression, templates, identity, request, now)

    return Condition(f"when {expression}", test, expression.subject, seen, name)


def _several_readings(
    expression: Expression, templates: Sequence[Template], *, denies: bool, matching: PathMatching
) -> Sequence[Readings]:
    """Return readers of those variables in the expression that upstreams may read differently."""
    variables = expression.variables
    named = Named(expression.text)
    found = [] if PATH_VARIABLES.isdisjoint(variables) else [path_readings(variables, templates, matching)]
    if "headers" in variables:
        found.append(header_readings(named, denies=denies))
    if "query" in variables:
        found.append(query_readings(named, denies=denies))
    if "body" in variables:
        found.append(body_readings(named, expression.compared, denies=denies))
    return found


def _add(context: "cel.Context", reading: Reading) -> None:
    for key, value in reading.items():
        context.add_variable(key, value)


def _over(
    several: Sequence[Sequence[Reading]],
    execute: Callable[["cel.Context"], Any],
    context: "cel.Context",
    *,
    denies: bool,
) -> bool | None:
    """Return the combined result of the expression over all readings.

    For a deny rule, a reading whose types do not fit the expression (a list where a form has single values,
    or the reverse) is skipped, unless no other reading remains.
    """
    results: list[bool | None] = []
    for reading in combined(several):
        _add(context, reading)
        try:
            found = execute(context)
        except Exception as error:  # as above
            if not denies or not _is_about_types(error):
                results.append(None)
            continue
        if found is denies:
            return bool(found)
        results.append(found if isinstance(found, bool) else None)
    return either_reading(results, denies=denies) if results else None


def _is_about_types(error: Exception) -> bool:
    # The function exists, because the expression was checked; so its argument has the wrong type.
    return isinstance(error, TypeError) or str(error).startswith("Undefined variable or function")


def _caller_variables(identity: Identity) -> dict[str, Any]:
    variables = {
        "kind": identity.kind.value,
        "scopes": sorted(identity.scopes),
        "roles": sorted(identity.roles),
        "audiences": sorted(identity.audiences),
        "claims": dict(identity.claims),
    }
    if identity.kind is CredentialKind.ANONYMOUS:
        return variables
    named = {"subject": identity.subject, "issuer": identity.issuer}
    return variables | {key: value for key, value in named.items() if value}


def _seen(
    expression: Expression, templates: Sequence[Template], identity: Identity, request: Request, now: float
) -> str:
    """Return the values of the variables, or the reason why the expression failed."""
    values: dict[str, Any] = {}
    known = _caller_variables(identity)
    try:
        for key in expression.variables:
            if key in _SHOWN:
                values[key] = _SHOWN[key](request, now)
            elif key == "vars":
                values[key] = bind(templates, request.path.segments)
            elif key in known:
                values[key] = known[key]
        found = expression.program.execute({key: value for key, value in values.items() if value is not None})
    except UnreadableBodyError as error:
        return f"the body cannot be read: {error}"
    except Exception as error:  # as above
        return f"it fails: {why_failed(error)}; {_values_text(values)}"
    return _values_text(values) if isinstance(found, bool) else f"it gives {found!r}, neither true nor false"


def _values_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value!r}" for key, value in values.items()) or "no variables"
