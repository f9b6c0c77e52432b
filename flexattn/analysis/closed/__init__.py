"""A mask graph to its closed form: for each position of one index, the ranges it keeps of the other."""
