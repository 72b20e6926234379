# SPDX-License-Identifier: Apache-2.0
"""Exact values of expressions, and whether two of them are equal.

polynomials.py  sums of products with exact coefficients    functions.py  roots, logarithms, sines in them
canonical.py    from an expression to such a sum            numeric.py    certified real values of it
equality.py     whether two expressions are equal
"""
