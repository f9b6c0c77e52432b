"""Puts hooks into templates: what kernels exist, what they are keyed by, and their source text."""
