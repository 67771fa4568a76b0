"""The types of names, texts and blocks that policy files share."""

import re
from collections.abc import Collection
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from authz.policy.types.pattern import HostPattern, Template, parse_host, parse_template
from authz.request.path import NEVER_ACCEPTED, PathAnomaly
from common.configfile import Block, Spelled

MAX_NAME_PARTS: Final = 16
"""The most parts in the dotted name of a claim or field: more than any token or form has."""

_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")
_DOT: Final = re.compile(r"(?<!\\)\.")


class PolicyBlock(Block):
    """A block of a policy file, in which a key without a value is an error."""

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_missing_values(cls, value: Any) -> Any:
        """Refuse a key without a value: an empty `scopes:` would match more callers than intended."""
        if value is None:
            raise ValueError("the value is missing; write one, or leave the key out")
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return pydantic's schema without null, which is only the default of omitted keys."""
        found = handler(schema)
        for key in handler.resolve_ref_schema(found).get("properties", {}).values():
            choices = [choice for choice in key.pop("anyOf", ()) if choice != {"type": "null"}]
            key.update(choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {})
            if key.get("default", "") is None:
                del key["default"]
        return found


class OneOrMany:
    """Accepts a single value as a list of one, in validation and in the JSON schema."""

    @staticmethod
    def __get_pydantic_core_schema__(source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def listed(value: Any) -> Any:
            return value if isinstance(value, list | tuple) else (value,)

        return core_schema.no_info_before_validator_function(listed, handler(source))

    @staticmethod
    def __get_pydantic_json_schema__(schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        many = handler(schema)
        return {"anyOf": [many["items"], many]}


def split_name(name: str) -> tuple[str, ...]:
    r"""Split a dotted name: `realm_access.roles` has two parts, `https://x\.example/roles` has one.

    A dot always separates unless a backslash precedes it. A body comes from a client, so one name must not
    have two meanings.
    """
    return tuple(part.replace("\\.", ".") for part in _DOT.split(name))


def _dotted(name: str) -> str:
    parts = split_name(name)
    if "" in parts or len(parts) > MAX_NAME_PARTS:
        raise ValueError(
            f"{name!r}: expected names joined by dots, as in realm_access.roles; \\. is a dot in a name"
        )
    return name


def _method(value: str) -> str:
    if not _METHOD.fullmatch(value):
        hint = f"; methods are compared with case, so write {value.upper()}" if value.upper() != value else ""
        raise ValueError(f"{value!r} is not a method{hint}")
    if value == "*":
        raise ValueError("'*' is not a method; a rule without methods covers all of them")
    return value


def _oddity(value: Any) -> PathAnomaly:
    found = PathAnomaly.__members__.get(value.upper()) if isinstance(value, str) else None
    if found is None or found in NEVER_ACCEPTED:
        known = ", ".join(
            anomaly.name.lower() for anomaly in PathAnomaly if anomaly.name and anomaly not in NEVER_ACCEPTED
        )
        raise ValueError(f"{value!r} cannot be accepted in a path; these can: {known}")
    return found


def _at_least_one(values: Collection[Any]) -> Collection[Any]:
    # Not min_length: pydantic counts valid items only, and would add a second error to each invalid one.
    if not values:
        raise ValueError("name at least one, or leave the key out")
    return values


AT_LEAST_ONE: Final = AfterValidator(_at_least_one)
Text = Annotated[str, Field(min_length=1, max_length=1024)]
Texts = Annotated[tuple[Text, ...], AT_LEAST_ONE]
Scope = Annotated[str, Spelled(r"[\x21\x23-\x5B\x5D-\x7E]{1,256}", "orders:read")]
"""A scope token (RFC 6749 section 3.3), which needs no escape in the quoted string of a challenge."""
Scopes = Annotated[tuple[Scope, ...], AT_LEAST_ONE]
Name = Annotated[str, Spelled(r"[^\x00-\x1f\x7f]{1,128}", "orders-read")]
DottedName = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_dotted)]
"""The name of a claim or of a field of the body."""
Revision = Annotated[str, Spelled(r"[A-Za-z0-9._+-]{1,64}", "2f1c09ab77e4")]
"""The name of a release."""
Method = Annotated[str, AfterValidator(_method)]
HeaderName = Annotated[str, Spelled(r"[a-z0-9_-]{1,64}", "x-tenant")]
"""A request header, in lower case, as Envoy sends them."""
Host = Annotated[
    HostPattern,
    PlainValidator(parse_host),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["api.example.com", "*.example.com", "*"]}),
]
PathTemplate = Annotated[
    Template,
    PlainValidator(parse_template),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["/users/{id}", "/files/{rest=**}"]}),
]
PathOddity = Annotated[
    PathAnomaly,
    PlainValidator(_oddity),
    PlainSerializer(lambda anomaly: anomaly.name.lower()),
    WithJsonSchema(
        {
            "enum": [
                anomaly.name.lower()
                for anomaly in PathAnomaly
                if anomaly.name and anomaly not in NEVER_ACCEPTED
            ]
        }
    ),
]
