"""Compilers, the kernel cache on disk, and launching: everything that touches the machine."""
