"""Errors of the gallery, in the same form as flexattn's own."""

from __future__ import annotations

from flexattn.errors import FlexAttentionError


class UnknownRecipeError(FlexAttentionError, LookupError):
    """No recipe has this name."""


class RecipeFileError(FlexAttentionError, TypeError):
    """A file among the recipes does not hold one."""


class GymInputError(FlexAttentionError, ValueError):
    """A size, a file or another value given to the command line cannot be used."""


class CheckpointError(FlexAttentionError, ValueError):
    """A checkpoint is missing, damaged, or belongs to another model or data."""
