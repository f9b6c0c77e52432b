"""The scalar expression graphs every stage works on: nodes, operations, text, checks, oracle."""
