# SPDX-License-Identifier: Apache-2.0
"""Whether an answer's value is the reference's, by its type.

comparison.py  every type of value      relations.py   equations, chains, inequalities
real_sets.py   intervals and unions     unfinished.py  arithmetic that an answer leaves undone
"""
