"""From a Python function to a graph, without torch.compile, fx or vmap."""

from flexattn.trace.tracer import Traced, trace_mod

__all__ = ["Traced", "trace_mod"]
