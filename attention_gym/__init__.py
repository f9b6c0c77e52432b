"""The gallery of attention variants: recipes, pictures and the command line."""
