"""A mask graph to its closed form: the ranges of one index that it keeps for each of the other."""
