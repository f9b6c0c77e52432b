"""Every error a user can meet: one class per cause, each message saying at / why / fix.

A class's docstring is its manual page: what it means, then a wrong line and a right one. All are
subclasses of `FlexAttentionError`, and of the builtin that fits.
"""

from flexattn.errors.arguments import (
    ArgumentError,
    BackendError,
    BlockMaskAttributeError,
    BlockMaskDeviceError,
    BlockMaskError,
    BlockMaskIndexError,
    BlockMaskSizeError,
    DeterminismError,
    DoubleBackwardError,
    ForwardADError,
    HeadCountError,
    InputDeviceError,
    InputDtypeError,
    KernelOptionError,
    MixedDtypeError,
    ShapeError,
)
from flexattn.errors.base import FlexAttentionError
from flexattn.errors.machine import (
    CacheDirectoryError,
    CompilerFailedError,
    CompilerNotFoundError,
    DeviceTooOldError,
    InvalidGraphError,
    ProgramTextError,
    TargetError,
    TorchVersionError,
    TritonNotFoundError,
)
from flexattn.errors.tracing import (
    CaptureDeviceError,
    CaptureDtypeError,
    CaptureIndexError,
    CrossPositionError,
    InPlaceError,
    LayoutError,
    ModReturnError,
    ModSignatureError,
    TracedBranchError,
    TracedValueError,
    UnsupportedOpError,
)
from flexattn.errors.values import DivisionByZeroError, IndexOutOfRangeError, ShiftRangeError

__all__ = [
    "ArgumentError",
    "BackendError",
    "BlockMaskAttributeError",
    "BlockMaskDeviceError",
    "BlockMaskError",
    "BlockMaskIndexError",
    "BlockMaskSizeError",
    "CacheDirectoryError",
    "CaptureDeviceError",
    "CaptureDtypeError",
    "CaptureIndexError",
    "CompilerFailedError",
    "CompilerNotFoundError",
    "CrossPositionError",
    "DeterminismError",
    "DeviceTooOldError",
    "DivisionByZeroError",
    "DoubleBackwardError",
    "FlexAttentionError",
    "ForwardADError",
    "HeadCountError",
    "InPlaceError",
    "IndexOutOfRangeError",
    "InputDeviceError",
    "InputDtypeError",
    "InvalidGraphError",
    "KernelOptionError",
    "LayoutError",
    "MixedDtypeError",
    "ModReturnError",
    "ModSignatureError",
    "ProgramTextError",
    "ShapeError",
    "ShiftRangeError",
    "TargetError",
    "TorchVersionError",
    "TracedBranchError",
    "TracedValueError",
    "TritonNotFoundError",
    "UnsupportedOpError",
]

for _name in __all__:  # what tracebacks say is what `except` clauses name
    globals()[_name].__module__ = __name__
