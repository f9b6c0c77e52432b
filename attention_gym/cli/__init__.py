"""The command line of the gallery, one module per group of commands."""
