# SPDX-License-Identifier: Apache-2.0
"""The prompts of the paper, word for word (arXiv 2409.12917, appendix), and what it leaves open.

It does not say where the problem stands in the first turn: here, at its end.
"""

_FINAL_ANSWER = (
  'At the end of the Solution, when you give your final answer, write it in the form "Final Answer: The final answer '
  'is $answer$. I hope it is correct."'
)

MATH_FIRST = (
  'You are a math expert. When you respond, respond only with the Solution of the final Problem, thinking step by '
  'step. ' + _FINAL_ANSWER
)
MATH_AGAIN = (
  'There might be an error in the solution above because of lack of understanding of the question. Please correct the '
  'error, if any, and rewrite the solution. Only output the final solution! ' + _FINAL_ANSWER
)
CODE_AGAIN = (
  '# There might be an error in the code above because of lack of understanding of the question. Please correct the '
  'error, if any, and rewrite the solution. Only output the final correct Python program!'
)
# The paper compares with Self-Refine (Madaan et al., arXiv 2303.17651), without its prompt. In one turn:
SELF_REFINE = (
  'Review your answer above: go through it step by step and say what is wrong, if anything. Then use '
  'this feedback to write an improved answer, in full and in the same form.'
)

INSTRUCTIONS = {  # of `score_jax.evaluate --instruction`
  'paper_math': MATH_AGAIN,
  'paper_code': CODE_AGAIN,
  'self_refine': SELF_REFINE,
}

MATH_QUESTION = MATH_FIRST + '\n\nProblem: {question}'
# Not printed in the paper, which says "zero-shot".
HUMANEVAL_QUESTION = (
  'Complete the following Python function. Answer with the whole function in one ```python block.\n\n```python\n'
  '{question}\n```'
)
# Of MBPP (Austin et al., arXiv 2108.07732, section 3): three solved problems, then the one to solve.
MBPP_PROBLEM = (
  'You are an expert Python programmer, and here is your task: {question} Your code should pass these tests:\n\n'
  '{tests}\n[BEGIN]\n'
)
MBPP_SOLVED = MBPP_PROBLEM + '{code}\n[DONE]\n\n'
