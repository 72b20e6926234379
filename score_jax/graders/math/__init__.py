"""The verifier of mathematical answers: extraction, exact comparison, and a table of its policies."""

from score_jax.graders.math.grader import grade
from score_jax.graders.math.grader import readable

__all__ = ['grade', 'readable']
