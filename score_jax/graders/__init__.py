"""Verifiers: from what a problem's solution is known by, and an attempt's text, to a verdict. No jax in this room.

registry.py   which there are, by name       pool.py, worker.py  grading in processes of their own
references.py what each one needs to know    frames.py           how those processes talk
text.py  math/  countdown.py             the verifiers of answers
code.py  programs.py  trials.py  sandbox/ the verifier of programs: found in a text, tested, held
"""
