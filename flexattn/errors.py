"""Every error a user can meet: one class per cause, each message saying at / why / fix."""

from __future__ import annotations


class FlexAttentionError(Exception):
    """Base of all errors raised by flexattn.

    Args:
        summary: One sentence with the user's function and the value.
        at: ``file:line: source text`` of the user's code, when there is one.
        why: Why it cannot be done.
        fix: What to write instead.

    >>> print(FlexAttentionError("no such mask.", why="it was never made.", fix="make it."))
    no such mask.
      why  it was never made.
      fix  make it.
    """

    def __init__(
        self, summary: str, *, at: str | None = None, why: str | None = None, fix: str | None = None
    ) -> None:
        lines = [summary]
        lines += [
            f"  {k}{' ' * (5 - len(k))}{v}"
            for k, v in (("at", at), ("why", why), ("fix", fix))
            if v
        ]
        super().__init__("\n".join(lines))
        self.summary, self.at, self.why, self.fix = summary, at, why, fix

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return _rebuild, (type(self), self.summary, self.at, self.why, self.fix)


def _rebuild(cls, summary, at, why, fix):  # type: ignore[no-untyped-def]
    return cls(summary, at=at, why=why, fix=fix)


# While a mod is traced ------------------------------------------------------------------------


class TracedBranchError(FlexAttentionError, TypeError):
    """A mod used ``if``, ``and``, ``or``, ``not``, ``in`` or a chained comparison on a symbol."""


class TracedValueError(FlexAttentionError, TypeError):
    """A mod asked for a symbol's Python value: ``.item()``, ``int()``, ``len()``, iteration."""


class CrossPositionError(FlexAttentionError, TypeError):
    """A mod used an operation that reads other positions: ``cumsum``, ``sort``, a matmul."""


class InPlaceError(FlexAttentionError, TypeError):
    """A mod changed the score, an index or a captured tensor in place."""


class UnsupportedOpError(FlexAttentionError, NotImplementedError):
    """A mod called a torch function that has no row in the operation table."""


class ModReturnError(FlexAttentionError, TypeError):
    """A mask_mod did not return one bool, or a score_mod did not return one number."""


class ModSignatureError(FlexAttentionError, TypeError):
    """A mod is not callable, or does not take the arguments of its kind."""


class CaptureDeviceError(FlexAttentionError, ValueError):
    """A captured tensor lies on another device than query, key and value."""


class CaptureIndexError(FlexAttentionError, IndexError):
    """A captured tensor was indexed with too few, too many, or non-integer indices."""


class CaptureDtypeError(FlexAttentionError, TypeError):
    """A captured tensor has a dtype that mods cannot read."""


class LayoutError(FlexAttentionError, ValueError):
    """A tensor does not lie in plain memory: it is sparse, nested, or its storage was freed."""


# Found by the kernel --------------------------------------------------------------------------


class IndexOutOfRangeError(FlexAttentionError, IndexError):
    """A mod read outside a captured tensor at a position that the mask keeps."""


class DivisionByZeroError(FlexAttentionError, ZeroDivisionError):
    """A mod divided an integer by zero at a position that the mask keeps."""


class ShiftRangeError(FlexAttentionError, ValueError):
    """A mod shifted an integer by a negative count or by 64 bits and more."""


# Arguments of the public functions ------------------------------------------------------------


class ShapeError(FlexAttentionError, ValueError):
    """query, key and value do not fit together, or are not four-dimensional."""


class HeadCountError(FlexAttentionError, ValueError):
    """query has other heads than key and value, without ``enable_gqa`` or not a multiple."""


class InputDtypeError(FlexAttentionError, TypeError):
    """query, key or value has a dtype that attention is not built for."""


class MixedDtypeError(FlexAttentionError, ValueError):
    """query, key and value have different dtypes."""


class InputDeviceError(FlexAttentionError, ValueError):
    """query, key and value lie on different devices, or on one without a backend."""


class BlockMaskError(FlexAttentionError, ValueError):
    """A BlockMask does not fit the call, or its parts do not fit together."""


class BlockMaskIndexError(BlockMaskError, IndexError):
    """A BlockMask was indexed outside its batches, heads and query blocks, or along its keys."""


class BlockMaskAttributeError(BlockMaskError, AttributeError):
    """An attribute of a BlockMask that cannot change was assigned or deleted."""


class BlockMaskDeviceError(FlexAttentionError, ValueError):
    """A BlockMask lies on another device than query."""


class ArgumentError(FlexAttentionError, ValueError):
    """Two arguments contradict each other, or a value is outside its range."""


class KernelOptionError(FlexAttentionError, ValueError):
    """``kernel_options`` holds an unknown key or a bad value."""


class BackendError(FlexAttentionError, ValueError):
    """``backend`` names no backend, or one that cannot run here."""


# Derivatives that are not built -----------------------------------------------------------------


class DoubleBackwardError(FlexAttentionError, NotImplementedError):
    """A second derivative was asked for."""


class ForwardADError(FlexAttentionError, NotImplementedError):
    """A forward-mode derivative was asked for."""


# The machine ----------------------------------------------------------------------------------


class CompilerNotFoundError(FlexAttentionError, RuntimeError):
    """No C++ compiler was found."""


class CompilerFailedError(FlexAttentionError, RuntimeError):
    """The C++ compiler refused a generated kernel."""


class TorchVersionError(FlexAttentionError, RuntimeError):
    """The installed torch keeps something that flexattn needs in a way that is not known."""


class CacheDirectoryError(FlexAttentionError, OSError):
    """The kernel cache cannot be written."""


class ProgramTextError(FlexAttentionError, ValueError):
    """The text of a program cannot be read: damaged, or written by another version."""


class InvalidGraphError(FlexAttentionError, RuntimeError):
    """A graph breaks the rules of the operation table: a fault of flexattn itself."""
