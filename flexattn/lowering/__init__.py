"""Graphs to source text, one target a module; each target is a table from operation to spelling."""
