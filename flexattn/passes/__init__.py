"""Graph to graph: from a program as traced to the graphs a kernel template asks for."""
