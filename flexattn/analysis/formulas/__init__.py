"""Formulas for people: masks and closed forms as text and LaTeX, pairs counted; loads sympy."""
