"""The form of a recipe: one attention variant with its formula, source, captures and pictures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, get_type_hints

import torch
from torch import Tensor

FAMILIES = (
    "causal, local, global",
    "padding, packing, prefixes",
    "generation structure",
    "multimodal",
    "vision and video",
    "positional bias",
    "score rescaling",
    "normalisers and sinks",
    "data-dependent sparsity",
    "systems",
    "science and tables",
)
# What a recipe asks for beyond a pointwise function of the indices.
NEEDS = {
    "bh": "the mask differs over batch or head",
    "gr": "a captured tensor is learned and gets a gradient",
    "dv": "value vectors have another size than query and key vectors",
}


class MaskMod(Protocol):
    """True where query ``q_idx`` may attend to key ``kv_idx``."""

    def __call__(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, /) -> Tensor: ...


class ScoreMod(Protocol):
    """The score that replaces ``score``."""

    def __call__(
        self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, /
    ) -> Tensor: ...


@dataclass(frozen=True)
class Sizes:
    """Sizes of one attention call.

    ``kv_heads`` and ``kv_len`` of 0 mean "as the query's", a ``v_dim`` of 0 "as ``head_dim``".
    """

    batch: int = 1
    heads: int = 8
    q_len: int = 1024
    head_dim: int = 64
    kv_heads: int = 0
    kv_len: int = 0
    v_dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "kv_len", self.kv_len or self.q_len)
        object.__setattr__(self, "v_dim", self.v_dim or self.head_dim)


# Odd lengths, and more queries per key head than one: what a recipe is checked at.
ODD = Sizes(batch=2, heads=4, kv_heads=2, q_len=83, kv_len=101, head_dim=24)

# As many keys as queries: what most models' own mask code makes.
SQUARE = Sizes(batch=2, heads=4, kv_heads=2, q_len=83, head_dim=24)


@dataclass(frozen=True)
class Source:
    """Where a variant comes from.

    Attributes:
        model: The model or library that uses it, with the values it uses.
        paper: Identifier of the paper or the file that defines it.
    """

    model: str
    paper: str


@dataclass(frozen=True)
class Picture:
    """A case drawn by hand: rows are queries, columns are keys.

    Cells are separated by blanks. ``#`` keeps the score as it is, ``.`` drops it, a number keeps it
    with that value in place of the raw score ``raw``.

    Attributes:
        text: The drawing.
        given: Parameters and captured tensors (as nested lists) the drawing is for.
        raw: The raw score in every cell.
        batch: The batch entry drawn.
        head: The head drawn.
    """

    text: str
    given: Mapping[str, Any] = field(default_factory=dict)
    raw: float = 0.0
    batch: int = 0
    head: int = 0

    def cells(self) -> list[list[str]]:
        return [line.split() for line in self.text.strip().splitlines()]

    def scores(self) -> Tensor:
        """The drawing as modified scores, -inf where dropped: [Q, KV]."""
        value = {"#": self.raw, ".": float("-inf")}
        rows = [[value[c] if c in value else float(c) for c in row] for row in self.cells()]
        return torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A second definition of a recipe that shares no code with it.

    ``scores`` takes ``score``, raw scores [B, H, Q, KV], and by name whatever it needs of the
    recipe's parameters and captured tensors; it returns the modified scores, -inf where dropped.
    One that runs a model's own code puts the captured tensors into the model's weights.

    Attributes:
        source: ``dense formula``, or the name of the model code that is run, for example
            ``transformers.models.t5.modeling_t5.T5Attention.compute_bias``.
        scores: The definition.
        given: Parameters it is for; those left out have the recipe's ``small`` values.
        sizes: Sizes it is for; the recipe's ``fits``, or odd ones, if None.
        weights: What is returned are logarithms of a model's attention weights: a row may be off
            by a constant, which softmax takes no notice of.
    """

    source: str
    scores: Callable[..., Tensor]
    given: Mapping[str, Any] = field(default_factory=dict)
    sizes: Sizes | None = None
    weights: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One attention variant.

    ``mask`` and ``score`` are factories: called with parameters and captured tensors by name they
    return a mask_mod or score_mod. In their signatures a ``Tensor`` is a captured tensor; anything
    else is a parameter, has a default, and becomes an option of the command line.

    Attributes:
        family: One of `FAMILIES`.
        formula: The rule in one line, with ``q`` and ``kv`` as indices and ``s`` as scaled score.
        sources: Models and papers, the defining one first.
        mask: Factory of the mask_mod.
        score: Factory of the score_mod.
        captures: Makes realistic captured tensors by name: ``captures(sizes, **options)``.
        parameters: Meaning and unit of each parameter, those of ``captures`` included.
        captured: Shape, dtype and meaning of each captured tensor.
        learned: Captured tensors that want a gradient.
        equivalents: The same thing under other names, and where it is one off.
        pictures: Hand-drawn cases.
        references: Second definitions, which `verify` and the tests compare with.
        needs: Keys of `NEEDS`.
        sizes: A realistic size to run it at.
        small: Parameters that show what the variant does within some dozens of tokens.
        fits: Sizes at which it is drawn and checked with ``small``, where not any do.
        image: Names of the two parameters that give rows and columns of the picture the tokens
            lie on, row by row; its neighbourhoods are then drawn there too.
        value_in_key: Values are the first ``v_dim`` channels of the keys, in the same memory.
        scale: Softmax scale, None for 1 / sqrt(head_dim).
        name: File name, filled in by discovery.
        summary: First line of the file's docstring, filled in by discovery.
    """

    family: str
    formula: str
    sources: tuple[Source, ...]
    mask: Callable[..., MaskMod] | None = None
    score: Callable[..., ScoreMod] | None = None
    captures: Callable[..., dict[str, Tensor]] | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    captured: Mapping[str, str] = field(default_factory=dict)
    learned: frozenset[str] = frozenset()
    equivalents: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    references: tuple[Reference, ...] = ()
    needs: frozenset[str] = frozenset()
    sizes: Sizes = Sizes()
    small: Mapping[str, Any] = field(default_factory=dict)
    fits: Sizes | None = None
    image: tuple[str, str] | None = None
    value_in_key: bool = False
    scale: float | None = None
    name: str = ""
    summary: str = ""

    @property
    def kind(self) -> str:
        parts = {"mask": self.mask, "score": self.score}
        return " and ".join(name for name, f in parts.items() if f is not None) or "plain"

    def drawn(self, *, q_len: int = 0, kv_len: int = 0, default: int) -> Sizes:
        """Sizes at which it is drawn: those asked for, else `fits`, else ``default`` tokens."""
        base = self.fits or Sizes(heads=self.sizes.heads, q_len=default)
        if not (q_len or kv_len):
            return base
        return replace(base, q_len=q_len or base.q_len, kv_len=kv_len or q_len or base.kv_len)

    def factories(self) -> tuple[Callable[..., Any], ...]:
        return tuple(f for f in (self.mask, self.score, self.captures) if f is not None)

    def options(self) -> dict[str, inspect.Parameter]:
        """The recipe's parameters by name, annotations resolved to types."""
        found: dict[str, inspect.Parameter] = {}
        for factory in self.factories():
            hints = get_type_hints(factory)
            for name, parameter in inspect.signature(factory).parameters.items():
                if hints.get(name) not in (Tensor, Sizes):
                    found.setdefault(name, parameter.replace(annotation=hints.get(name, str)))
        return found

    def mods(self, given: Mapping[str, Any]) -> tuple[ScoreMod | None, MaskMod | None]:
        """(score_mod, mask_mod) for parameters and captured tensors by name; others are let be.

        Args:
            given: Values by name; a parameter left out takes its default.
        """

        def make(factory: Callable[..., Any] | None) -> Any:
            if factory is None:
                return None
            wanted = inspect.signature(factory).parameters
            return factory(**{k: v for k, v in given.items() if k in wanted})

        return make(self.score), make(self.mask)

    def make_captures(self, sizes: Sizes, given: Mapping[str, Any]) -> dict[str, Tensor]:
        if self.captures is None:
            return {}
        wanted = inspect.signature(self.captures).parameters
        return self.captures(sizes, **{k: v for k, v in given.items() if k in wanted})

    def _repr_html_(self) -> str:
        """What notebooks show."""
        return "".join(show(self) for show in NOTEBOOK)


# How a recipe looks in notebooks; what draws it (`notebook`) needs this form, not the other way.
NOTEBOOK: list[Callable[[Recipe], str]] = []
