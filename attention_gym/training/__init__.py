"""The main job: train a small byte-level transformer on source files, on the CPU."""
