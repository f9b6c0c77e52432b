"""Measures attention on this machine. The gallery uses what is named here to measure recipes."""

from flexattn.bench.report import machine
from flexattn.bench.shapes import ratio
from flexattn.bench.timing import Timing, alternate

__all__ = ["Timing", "alternate", "machine", "ratio"]
