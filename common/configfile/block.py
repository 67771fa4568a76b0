"""The base of every block of a configuration file."""

from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """A block of a configuration file: an unknown key is an error, and values never change.

    The docstring below a field is its description in the JSON Schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
