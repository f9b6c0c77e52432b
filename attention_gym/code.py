"""Write a recipe out as code to paste: its functions, whatever they use, and the call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from attention_gym.errors import RecipeFileError
from attention_gym.recipe import Recipe

OURS = "attention_gym."
PLAIN = (bool, int, float, str, tuple, list, dict)


def call(recipe: Recipe) -> str:
    """The call of flex_attention, parameters with their defaults and captures by name."""
    defaults = {name: repr(p.default) for name, p in recipe.options().items()}
    arguments = ["query", "key", "value"]
    for keyword, factory in (("score_mod", recipe.score), ("mask_mod", recipe.mask)):
        if factory is not None:
            names = inspect.signature(factory).parameters
            inner = ", ".join(f"{name}={defaults.get(name, name)}" for name in names)
            arguments.append(f"{keyword}={factory.__name__}({inner})")
    if recipe.scale is not None:
        arguments.append(f"scale={recipe.scale}")
    return f"out = flex_attention({', '.join(arguments)})"


def code(recipe: Recipe) -> str:
    """The recipe as a script that needs query, key, value and the captured tensors."""
    imports = {"from flexattn import flex_attention"}
    constants: dict[str, str] = {}
    functions: dict[str, str] = {}
    for factory in (recipe.score, recipe.mask):
        if factory is not None:
            collect(factory, imports, constants, functions)
    parts = ["\n".join(constants.values())] if constants else []
    # Annotations are left unevaluated, so the types they name need no import.
    head = "from __future__ import annotations\n\n"
    plain = sorted(line for line in imports if line.startswith("import"))
    named = sorted(imports - set(plain))
    head += "\n\n".join("\n".join(lines) for lines in (plain, named) if lines)
    return "\n\n\n".join([head, *parts, *functions.values(), call(recipe)])


def collect(
    function: Callable[..., Any],
    imports: set[str],
    constants: dict[str, str],
    functions: dict[str, str],
) -> None:
    """Add the source of ``function`` after that of all it uses, which goes to the other two.

    Raises:
        RecipeFileError: It uses something that cannot be written down.
    """
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType):
        raise _unwritable(function, "factories are functions")
    if function.__name__ in functions:
        return
    for name in sorted(set(global_names(function.__code__))):
        if name not in function.__globals__:
            continue  # a builtin, or an attribute
        value = function.__globals__[name]
        home = getattr(value, "__module__", None) or ""
        if isinstance(value, ModuleType):
            path = value.__name__
            imports.add(f"import {path}" if path == name else f"import {path} as {name}")
        elif isinstance(value, PLAIN):
            constants[name] = f"{name} = {value!r}"
        elif isinstance(value, FunctionType) and home.startswith(OURS):
            if value is not function:
                collect(value, imports, constants, functions)
        elif home.split(".")[0] in ("torch", "math", "itertools", "functools", "flexattn"):
            package = "flexattn" if home.startswith("flexattn") else home
            imports.add(f"from {package} import {name}")
        else:
            raise _unwritable(function, f"it uses {name}, a {type(value).__name__}")
    functions[function.__name__] = inspect.getsource(function).rstrip()


def global_names(code: CodeType) -> Iterator[str]:
    """Names a function looks up outside itself, those of functions within it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from global_names(constant)


def _unwritable(function: Any, why: str) -> RecipeFileError:
    return RecipeFileError(
        f"{getattr(function, '__name__', function)} cannot be shown as code to paste.",
        why=f"{why}.",
        fix="use functions, numbers and modules alone in factories.",
    )
