"""What every table of a recipe is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

PathString = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of the recipe. Attribute docstrings say what a field does; units stand in them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def _none_if_off(value: Any) -> Any:
    return None if value == "off" else value  # TOML has no word for None


CanBeOff = BeforeValidator(_none_if_off)
