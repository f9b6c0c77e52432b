"""A mask graph to the class of every tile, by proof: what is said here is true of every pair."""
