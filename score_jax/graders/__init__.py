# SPDX-License-Identifier: Apache-2.0
"""Graders: from a problem's reference and an attempt's text to a verdict. Nothing here imports jax.

Each kind is a module that works alone; the pool runs any of them in separate processes:

    from score_jax.graders import math
    math.grade({'answer': '1/2'}, r'Thus $\\boxed{0.5}$.').verdict  # Verdict.CORRECT

    from score_jax.graders import pool
    grader = pool.open_grader('math')
    grader.grade([({'answer': '1/2'}, r'\\boxed{0.5}'), ({'answer': '7'}, '#### 8')])  # a list of Graded
    grader.close()

text.py, countdown.py  answers compared letter by letter, and chains of arithmetic
math/                  mathematical answers, compared by value
math_verify.py         the same by the package math-verify (extra `math-verify`)
code/                  programs, run on unit tests in a sandbox
registry.py            the graders by name, and the settings of grading
references.py          what each grader needs to know of a problem, made from a row of data
pool.py, worker.py     grading in separate processes
messages.py            what those processes send to one another
"""
