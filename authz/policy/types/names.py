"""The words of a policy file: the types that its blocks share."""

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
"""In the dotted name of a claim or field; deeper than any token or form."""

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Z-]+")
_DOT = re.compile(r"(?<!\\)\.")


class PolicyBlock(Block):
    """A block of a policy file, in which a key without a value is an error."""

    @field_validator("*", mode="before")
    @classmethod
    def _says_something_under_each_key(cls, value: Any) -> Any:
        """`scopes:` with nothing behind it would ask for nothing: more callers than anybody meant."""
        if value is None:
            raise ValueError("nothing stands here; write what is meant, or leave the key out")
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """As pydantic has it, but without the null that stands for a key left out."""
        found = handler(schema)
        for key in handler.resolve_ref_schema(found).get("properties", {}).values():
            choices = [choice for choice in key.pop("anyOf", ()) if choice != {"type": "null"}]
            key.update(choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {})
            if key.get("default", "") is None:
                del key["default"]
        return found


class OneOrMany:
    """Lets one value stand for a list of one, in validation and in the JSON schema."""

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
    r"""The parts of a dotted name: `realm_access.roles` is two, `https://x\.example/roles` is one.

    A dot always separates unless a backslash stands before it: where a body may be written by
    anyone, one name must not find two things.
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
        raise ValueError(f"{value!r} is no method{hint}")
    if value == "*":
        raise ValueError("'*' is no method; without methods, a rule is about all of them")
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
    # Not min_length: pydantic counts the good items only, and would add a second error to each bad one.
    if not values:
        raise ValueError("name at least one, or leave the key out")
    return values


AT_LEAST_ONE: Final = AfterValidator(_at_least_one)
Text = Annotated[str, Field(min_length=1, max_length=1024)]
Texts = Annotated[tuple[Text, ...], AT_LEAST_ONE]
Scope = Annotated[str, Spelled(r"[\x21\x23-\x5B\x5D-\x7E]{1,256}", "orders:read")]
"""RFC 6749 section 3.3; it may stand in a challenge between double quotes."""
Scopes = Annotated[tuple[Scope, ...], AT_LEAST_ONE]
Name = Annotated[str, Spelled(r"[^\x00-\x1f\x7f]{1,128}", "orders-read")]
DottedName = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_dotted)]
"""The name of a claim or of a field of the body."""
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
