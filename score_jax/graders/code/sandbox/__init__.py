# SPDX-License-Identifier: Apache-2.0
"""Runs a program that nobody has read beside the tests that judge it. docs/sandbox.md has the threat model.

Of three kinds of process, only the first holds anything worth stealing:

  client    in the grader: sends a job, holds the clock, reads a verdict            client.py
  zygote    a clean interpreter that forks a fresh pair for every job               zygote.py
  the pair  the judge, who knows the tests, and the program, which knows arguments  judge.py, program.py

Everything between judge and program is plain data, as codec.py writes it. The zygote never imports jax.
"""
