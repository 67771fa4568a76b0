from pydantic import BaseModel, ConfigDict


class Block(BaseModel):
    """A block of the policy file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
