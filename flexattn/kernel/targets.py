"""The GPUs that Triton kernels are written for, and the interpreter that runs them on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from flexattn.errors import TargetError


@dataclass(frozen=True)
class Target:
    """One kind of GPU.

    Attributes:
        name: ``sm_90`` or ``gfx942`` as its maker calls it, or ``interpreter``.
        backend: Triton's name of the family: ``cuda``, ``hip`` or ``interpreter``.
        arch: What Triton calls the architecture: a whole number for cuda, the name for hip.
        warp: Threads that run together.
        shared_limit: Bytes of shared memory that one program may have.
    """

    name: str
    backend: str
    arch: int | str
    warp: int
    shared_limit: int


INTERPRETER = Target("interpreter", "interpreter", 0, 32, 1 << 30)

# Compute capability → KB of shared memory for one block (CUDA programming guide, table of
# features per compute capability). A GPU that is not listed gets the least of its generation.
_CUDA = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
_HIP = {"gfx90a": 64, "gfx942": 64, "gfx950": 160}

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        *(Target(f"sm_{arch}", "cuda", arch, 32, kb * 1024) for arch, kb in _CUDA.items()),
        *(Target(name, "hip", name, 64, kb * 1024) for name, kb in _HIP.items()),
        INTERPRETER,
    )
}


def target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        TargetError: There is none.
    """
    try:
        return TARGETS[name]
    except KeyError:
        gpus = ", ".join(each for each in TARGETS if each != INTERPRETER.name)
        raise TargetError(
            f"there is no target {name!r}.",
            why=f"kernels are written for {gpus}.",
            fix="name one of them; sm_90 is the H100 and the H200.",
        ) from None


def cuda_target(capability: tuple[int, int]) -> Target:
    """The target of an NVIDIA GPU of this compute capability.

    Raises:
        TargetError: It is older than the A100.
    """
    arch = 10 * capability[0] + capability[1]
    if arch < 80:
        raise TargetError(
            f"this GPU has compute capability {capability[0]}.{capability[1]}, which is too old.",
            why="kernels need bfloat16 in tensor cores and asynchronous copies: 8.0, the A100.",
            fix='run on a newer GPU, on the CPU, or slowly with backend="eager".',
        )
    known = TARGETS.get(f"sm_{arch}")
    return known or Target(f"sm_{arch}", "cuda", arch, 32, _CUDA[89] * 1024)


def hip_target(architecture: str) -> Target:
    """The target of an AMD GPU, from what torch calls its ``gcnArchName``.

    Raises:
        TargetError: It is none that kernels are written for.
    """
    return target(architecture.partition(":")[0])
