from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    steps: int = 1
    terms: int = 8
    family: str = "llama"
    forget_carry: float = 0.7


def ensure_base(recipe, folder, on_step=None):
    pass
