"""Kernel templates as real source files; nothing is ever written into this package."""
