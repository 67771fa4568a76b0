"""A type for text of a given form, for models; its error shows an example of valid text."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True)
class Spelled:
    """`Annotated[str, Spelled(PATTERN, EXAMPLE)]`: text that matches the pattern as a whole.

    It replaces `Field(pattern=...)`, whose error shows only the pattern, and which matches a part unless
    anchored.
    """

    pattern: str
    example: str

    def check(self, value: str) -> str:
        """The text itself. Raises ValueError when it does not match."""
        if self._compiled.fullmatch(value) is None:
            raise ValueError(f"{value!r}: expected text as in {self.example} (it matches {self.pattern})")
        return value

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^(?:{self.pattern})$", "examples": [self.example]}
