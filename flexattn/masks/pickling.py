"""Mask functions as bytes: importable ones by name, lambdas and closures by their code.

``cloudpickle`` does both, and what it writes ``pickle`` alone can read where it is installed.
"""

from __future__ import annotations

import pickle

from flexattn.masks.mods import MaskMod


def dump_mod(mod: MaskMod) -> bytes:
    """``mod`` with everything that it captures."""
    import cloudpickle

    data: bytes = cloudpickle.dumps(mod)
    return data


def load_mod(data: bytes) -> MaskMod:
    """The inverse of ``dump_mod``."""
    mod: MaskMod = pickle.loads(data)
    return mod
