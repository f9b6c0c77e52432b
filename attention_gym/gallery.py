"""Find recipes: every module of `attention_gym.recipes` that holds a ``RECIPE``."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import replace

from attention_gym import (
    notebook,  # noqa: F401  recipes show themselves
    recipes,
)
from attention_gym.errors import RecipeFileError, UnknownRecipeError
from attention_gym.recipe import Recipe


@functools.cache
def names() -> tuple[str, ...]:
    """File names of all recipes, sorted; nothing is imported."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(recipes.__path__)))


@functools.cache
def load(name: str) -> Recipe:
    """The recipe in ``attention_gym/recipes/<name>.py``.

    Raises:
        UnknownRecipeError: There is no such file; the message names the nearest.
        RecipeFileError: The file holds no ``RECIPE`` or has no docstring.
    """
    if name not in names():
        raise UnknownRecipeError(
            f"there is no recipe '{name}'.",
            why=f"attention_gym/recipes/ holds no {name}.py.",
            fix=_suggestion(name),
        )
    module = importlib.import_module(f"{recipes.__name__}.{name}")
    recipe = getattr(module, "RECIPE", None)
    if not isinstance(recipe, Recipe) or not module.__doc__:
        raise RecipeFileError(
            f"{module.__file__} is not a recipe.",
            why="a recipe file starts with a docstring and defines RECIPE = Recipe(...).",
            fix="compare it with attention_gym/recipes/causal.py.",
        )
    return replace(recipe, name=name, summary=module.__doc__.strip().splitlines()[0])


def load_all() -> Iterator[Recipe]:
    return (load(name) for name in names())


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name.replace("-", "_").lower(), names(), n=3, cutoff=0.4)
    if near:
        return "did you mean " + " or ".join(f"'{n}'" for n in near) + "?"
    return "`python -m attention_gym list` prints all names."
