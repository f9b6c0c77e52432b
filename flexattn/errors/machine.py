"""Errors of the machine: its compiler, its disk, its torch; and of flexattn itself."""

from __future__ import annotations

from flexattn.errors.base import FlexAttentionError


class CompilerNotFoundError(FlexAttentionError, RuntimeError):
    """No C++ compiler was found.

    Kernels are compiled when first used. A kernel that the cache holds needs no compiler, nor
    does ``backend="eager"``, which is slow.

    Wrong, where there is no such program::

        CXX=clang++-99 python train.py

    Right: install g++ (Debian: ``apt install g++``) and leave CXX out, or name one that exists;
    options may follow, in ``FLEXATTN_CXX`` for flexattn alone::

        FLEXATTN_CXX="ccache g++" python train.py
    """


class CompilerFailedError(FlexAttentionError, RuntimeError):
    """The C++ compiler, or Triton, refused a generated kernel, died, hung, or made no library.

    ``at`` is the source it was given, ``why`` what it printed and, for C++, the command to repeat.
    Options in ``CXX`` or ``FLEXATTN_CXX`` that the compiler does not know are the usual reason.

    Wrong::

        FLEXATTN_CXX="g++ -march=native-ish" python train.py

    Right::

        FLEXATTN_CXX="g++" python train.py
    """


class TritonNotFoundError(FlexAttentionError, ImportError):
    """Kernels for GPUs are wanted, and Triton cannot be imported.

    torch's wheels for CUDA and ROCm bring Triton along; its wheels for the CPU do not, and need
    it only for ``compile --target sm_90`` and for interpreted kernels.

    Wrong, where Triton is not installed::

        python -m flexattn compile mymodule:my_mod --target sm_90

    Right::

        pip install "triton>=3.6"
        python -m flexattn compile mymodule:my_mod --target sm_90
    """


class TargetError(FlexAttentionError, ValueError):
    """There are no kernels for the GPU that was named, or for the one that holds the tensors.

    Kernels are written for NVIDIA's GPUs from the A100 on (sm_80) and for AMD's MI200 and MI300
    series. ``backend="eager"`` works on any device, slowly.

    >>> import flexattn
    >>> from flexattn import noop_mask
    >>> flexattn.compile_only(noop_mask, target="sm_70")
    Traceback (most recent call last):
    flexattn.errors.TargetError: ...

    Right::

        flexattn.compile_only(noop_mask, target="sm_90")
    """


class TorchVersionError(FlexAttentionError, RuntimeError):
    """The installed torch keeps something that flexattn needs in a way that is not known.

    Only ``torch.compile`` over a call is concerned. Outside of it all versions from 2.11 work.

    Right, with any version: leave the call out of the compiled region; it is compiled already::

        attend = torch.compiler.disable(flex_attention)
    """


class DeviceTooOldError(FlexAttentionError, RuntimeError):
    """The GPU is older than those the kernels are built for.

    They need an NVIDIA GPU of compute capability 8.0 (A100, RTX 30) or newer, whose tensor cores
    take bfloat16.

    Wrong, on a V100 (compute capability 7.0)::

        flex_attention(query.cuda(), key.cuda(), value.cuda())

    Right: another GPU, or the slow reference, which is made of torch operations::

        flex_attention(query.cuda(), key.cuda(), value.cuda(), backend="eager")
    """


class CacheDirectoryError(FlexAttentionError, OSError):
    """The kernel cache, or the folder of ``FLEXATTN_DUMP``, cannot be written.

    It is read-only, full, below a file, or in the home of a user who has none. Kernels that the
    cache already holds can be used from a folder that is read-only.

    Wrong, in a container without a home::

        python train.py

    Right::

        FLEXATTN_CACHE_DIR=/tmp/flexattn python train.py
    """


class ProgramTextError(FlexAttentionError, ValueError):
    """The text of a program cannot be read: damaged, or written by another version.

    Programs travel as text inside exported and compiled graphs. Export again with the version
    that is to run the graph.

    >>> from flexattn.ir.printer import parse_program
    >>> parse_program("flexattn-program 1000")
    Traceback (most recent call last):
    flexattn.errors.ProgramTextError: ...
    """


class InvalidGraphError(FlexAttentionError, RuntimeError):
    """A graph breaks the rules of the operation table: a fault of flexattn itself.

    No mod should lead to it. Please report the mod; ``backend="eager"`` may serve meanwhile.
    """
