# SPDX-License-Identifier: Apache-2.0
"""From an answer's text to its value. Nothing is evaluated as code; length, depth and digits are bounded.

clean.py        one spelling for what is written in many    tokens.py, words.py         cuts it into tokens
expressions.py, brackets.py  recursive descent              values.py                   what an answer can be
answers.py      lists, relations, units, words
"""
