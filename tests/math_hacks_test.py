"""Responses that must not pass: hedges, echoes, chains, look-alikes, tiny numbers, injected code. One row each.

Sources of single rows: issues 14, 44, 47 and 60 of github.com/huggingface/Math-Verify; its tests; QwenLM/Qwen2.5-Math
evaluation/grader.py.
"""

import ast
import pathlib

import pytest

from score_jax.core_types import Verdict
from score_jax.graders import math
from score_jax.graders.math import grade

HACKS = r"""
5 ## \boxed{4 \text{ or } 5}
5 ## \boxed{5 \text{ or } 4}
5 ## \boxed{4, 5}
5 ## \boxed{5, 4}
5 ## \boxed{4 \text{ and } 5}
5 ## \boxed{4; 5}
5 ## \boxed{\{4, 5\}}
5 ## \boxed{(4, 5)}
5 ## \boxed{4}\boxed{5}
5 ## \boxed{4} or \boxed{5}
5 ## \boxed{4}, \boxed{5}
5 ## \boxed{4} and \boxed{5}
5 ## $\boxed{4}$ $\boxed{5}$
5 ## either 4 or 5
5 ## The answer is 4 or 5.
5 ## The answer is either 4 or 5
5 ## 4 5
5 ## 4, 5
5 ## 5 4
5 ## \boxed{4 5}
5 ## \boxed{4\ 5}
5 ## \boxed{4 \quad 5}
5 ## \boxed{[1, 10]}
2k ## \boxed{2k+2, k \in \mathbb{Z}}
2k ## \boxed{-2k, k \in \mathbb{Z}}
2k ## \boxed{2n, n \in \mathbb{Z}}
n ## \boxed{n+1, n \in \mathbb{Z}}
C ## \boxed{(C)+1}
C ## \boxed{\text{(C)}+1}
C ## \boxed{(C) (D)}
C ## \boxed{(C)(D)}
C ## \boxed{C. 3 or D. 4}
C ## \boxed{(C) 3 or (D) 4}
C ## \boxed{(C) is wrong}
C ## \boxed{(C) D}
C ## \boxed{(C) 3, 4}
C ## \boxed{\textbf{(C)} 5 \textbf{(D)} 6}
C ## \boxed{z = c}
C ## \boxed{(C) = D}
5 ## \boxed{1 \text{ to } 10}
5 ## \boxed{1-10}
5 ## \boxed{x \in \{4,5\}}
5 ## \boxed{x > 4}
5 ## \boxed{4 < x < 6}
5 ## \boxed{x \ne 4}
5 ## \boxed{5 \pm 0.5}
5 ## \boxed{\pm 5}
2021 ## \boxed{\pm 2021}
\pm 2021 ## \boxed{2021}
\pm 2021 ## \boxed{-2021}
5 ## \boxed{5 \pm 100}
3+\sqrt2 ## \boxed{3\pm\sqrt2}
5 ## \boxed{4=5}
5 ## \boxed{5=4}
5 ## \boxed{1=2=3=4=5}
5 ## \boxed{x=4=5}
5 ## \boxed{x = 4 \Rightarrow x = 5}
5 ## \boxed{4 \approx 5}
4 ## \boxed{5 \approx 4}
4 ## \boxed{x = 3 \approx 4}
5 ## \boxed{2+2=5}
5 ## \boxed{4 \to 5}
5 ## \boxed{4 \equiv 5}
5 ## \boxed{x^2 = 25}
5 ## \boxed{2x = 10}
5 ## \boxed{x = 10/2 = 4}
x=5 ## \boxed{y=5}
x=5 ## \boxed{2x=10}
0 ## \boxed{x^2-5x+6=0}
7=11a+c ## $11a+c$
a+3z=0 ## $0$
2x+z=1 ## $1$
5/6 ## \boxed{\frac12+\frac13}
5/6 ## \boxed{1/2 + 1/3}
\frac{5}{6} ## \boxed{\frac{1}{2}\cdot\frac{5}{3}}
10 ## \boxed{\sum_{i=1}^4 i}
10 ## \boxed{1+2+3+4}
12 ## \boxed{3 \times 4}
12 ## \boxed{3\cdot4}
12 ## \boxed{(3)(4)}
1 ## \boxed{\lim_{x\to 0}\frac{\sin x}{x}}
1/3 ## \boxed{\int_0^1 x^2 dx}
24 ## \boxed{\prod_{k=1}^4 k}
\frac{\sqrt3}{2} ## \boxed{\sin 60^\circ}
3 ## \boxed{\log_2 8}
2 ## \boxed{\log 100}
3 ## \boxed{\lfloor \pi \rfloor}
4 ## \boxed{|{-4}|}
\frac{2}{3} ## \boxed{\frac{\frac12}{\frac34}}
4 ## \boxed{\sqrt2\cdot\sqrt8}
3\sqrt2 ## \boxed{\sqrt2+\sqrt8}
\pi/4 ## \boxed{\arctan 1}
50 ## \boxed{50\%}
10 ## \boxed{10\%}
0.5 ## \boxed{0.5\%}
5000\% ## \boxed{50\%}
0.5 ## \boxed{50}
50\% ## \boxed{0.5\%}
50\% ## \boxed{5000}
28\% ## \boxed{72\%}
5 ## \boxed{}
5 ## \boxed{ }
5 ## \boxed{5} so \boxed{}
5 ## \boxed{\text{}}
5 ## \boxed{5
5 ## \boxed{?}
5 ## \boxed{x}
5 ## \boxed{\text{five}}
5 ## \boxed{answer}
5 ## \boxed{the correct answer}
5 ## \boxed{\text{see above}}
5 ## \boxed{5 \text{ is wrong}}
5 ## \boxed{\text{not } 5}
5 ## \boxed{\neg 5}
5 ## \boxed{5?4}
5 ## \boxed{5} No wait. \boxed{6}
7 ## \boxed{7}. Wait: \boxed{5}
7 ## The final answer is $7$. I hope it is correct. Final Answer: The final answer is $5$. I hope it is correct.
5 ## The answer is not 5, it is 6.
5 ## <think>\boxed{5}</think> The answer is \boxed{6}
42 ## <think> My answer is \boxed{42} </think> Some other text.
5 ## \boxed{__import__('os').system('true') or 5}
5 ## \boxed{eval("5")}
5 ## \boxed{lambda: 5}
5 ## \boxed{(lambda x: x)(5)}
5 ## \boxed{5 if True else 4}
5 ## \boxed{open('/etc/passwd').read()}
5 ## \boxed{AlwaysEqual()}
5 ## \boxed{gold}
5 ## \boxed{reference['answer']}
5 ## \boxed{{{5}},{{4}}}
5 ## \boxed{\input{answer}}
5 ## \boxed{\def\x{5}\x}
5 ## \boxed{*}
5 ## \boxed{nan}
5 ## \boxed{None}
5 ## \boxed{True}
1 ## \boxed{True}
0 ## \boxed{\text{undefined}}
\infty ## \boxed{-\infty}
\infty ## \boxed{\infty - \infty}
0 ## \boxed{\infty - \infty}
0 ## \boxed{\frac{0}{0}}
1 ## \boxed{\frac{0}{0}}
0 ## \boxed{\frac{1}{\infty}}
1 ## \boxed{\frac{\infty}{\infty}}
\frac{1}{2^{99}} ## \boxed{\frac{1}{2^{98}}}
\frac{1}{2004!} ## \boxed{\frac{1}{2006!}}
\frac{1}{2004!} ## \boxed{0}
\frac{2^{2005}+1}{3\cdot 2^{2006}} ## \boxed{\frac{1}{3\cdot 2^{2006}}}
1 ## \boxed{1 + 10^{-100}}
x ## \boxed{x + 10^{-100}}
\sin x ## \boxed{\sin(x + 10^{-100})}
\sin x ## \boxed{\sin(x + 10^{-130})}
\cos 1 ## \boxed{\cos(1 + 10^{-130})}
\cos 1 ## \boxed{e^{10^{-130}} \cos 1}
\cos 1 ## \boxed{\cos 1 + 10^{-130}\sin 1}
\sqrt{x+1} ## \boxed{\sqrt{x+1+10^{-130}}}
\ln x ## \boxed{\ln(x + 10^{-130})}
\cos 1 ## \boxed{\cos(1 + e^{-300})}
\cos 1 ## \boxed{\cos(1 + (\sin 1)^{2000})}
\cos 1 ## \boxed{\cos(1 + (\sin 1)^{4000})}
\cos 1 ## \boxed{\cos 1 + 10^{-260}\sin 1}
\cos 1 ## \boxed{\cos(1 + 10^{-300})}
\sin x ## \boxed{\sin(x + 10^{-260})}
\sqrt{x+1} ## \boxed{\sqrt{x+1+10^{-260}}}
\ln x ## \boxed{\ln(x + 10^{-260})}
1234 ## \boxed{(1,234)}
5 ## \boxed{(5]}
(1,2,3) ## \boxed{(1,2,3]}
5 ## We know for sure that it is surely not 5
\pi ## \boxed{3.14}
\pi ## \boxed{22/7}
\pi ## \boxed{\frac{355}{113}}
\sqrt2 ## \boxed{1.414}
\frac13 ## \boxed{0.33}
\frac13 ## \boxed{0.333}
1 - \frac{1}{\mathrm{e}} ## \boxed{1 + \frac{1}{\mathrm{e}}}
640320^3+744 ## \boxed{e^{\pi\sqrt{163}}}
4 ## \boxed{4\sqrt2}
2 ## \boxed{\frac{1+\sqrt5}{2}}
1\sqrt{19} ## \boxed{1}
10000 ## \boxed{10001}
12:00 ## \boxed{1:00}
12:00 ## \boxed{12}
4:30 \text{ p.m.} ## \boxed{4:30 \text{ a.m.}}
1:2 ## \boxed{2:1}
1:2:3 ## \boxed{1:4:9}
1,2,\dots,n ## \boxed{1,3,5,\dots,2n-1}
1:2:3:\dots ## \boxed{1:4:9:\dots}
\frac12 ## \boxed{1:2}
10_2 ## \boxed{10_3}
10_2 ## \boxed{2}
54 ## \boxed{204_5}
204_5 ## \boxed{54}
(1,2) ## \boxed{\{1,2\}}
(1,2) ## \boxed{(2,1)}
(1,2) ## \boxed{[1,2]}
[1,2] ## \boxed{(1,2)}
(0,1] ## \boxed{[0,1)}
(0,1) ## \boxed{(0,1.5)}
D=(0,1) ## \boxed{D=(0,1.5)}
\{1,2\} ## \boxed{\{1,2,3\}}
\{1,2,3\} ## \boxed{\{1,2\}}
1,2,3 ## \boxed{1,2}
1,2 ## \boxed{1,2,3}
1331 and 1728 ## \boxed{1728}
x>5 ## \boxed{x \ge 5}
x>5 ## \boxed{x<5}
x>5 ## \boxed{5}
x \in [-2,7] ## \boxed{-x \in [-2,7]}
(-\infty,2)\cup(2,\infty) ## \boxed{(-\infty,\infty)}
f(2)<f(1)<f(4) ## \boxed{f(1)<f(2)<f(4)}
(a+5)(b+2) ## \boxed{(+5)(b+2)}
x+2n+1 ## \boxed{x+1}
x ## \boxed{|x|}
x ## \boxed{\sqrt{x^2}}
f(x) ## \boxed{f(y)}
y=2x+3 ## \boxed{y=2x+4}
y=2x+3 ## \boxed{y=3x+2}
\begin{pmatrix}1\\2\end{pmatrix} ## \boxed{\begin{pmatrix}2\\1\end{pmatrix}}
\begin{pmatrix}1&2\\3&4\end{pmatrix} ## \boxed{\begin{pmatrix}1&3\\2&4\end{pmatrix}}
\begin{pmatrix}1\\2\end{pmatrix} ## \boxed{\begin{pmatrix}1&2\end{pmatrix}}
3+4i ## \boxed{3-4i}
3+4i ## \boxed{5}
15\text{ cm} ## \boxed{15\text{ m}}
\$5 ## \boxed{5\text{ cents}}
\text{Evelyn} ## \boxed{\text{Evelyn or Angela}}
\text{(A)} ## \boxed{\text{(A) or (B)}}
A ## \boxed{A, B, C, D}
A ## \boxed{ABCD}
\text{even} ## \boxed{\text{not even}}
\text{even} ## \boxed{\text{odd}}
A ## A. Because B is not valid, or so. The answer is B.
2 ## AZYUK2A
32349 ## \boxed{32, 349}
1234 ## \boxed{12,34}
1 ## \boxed{1\over 2}
12 ## \boxed{1 \! 3}
5 ## \boxed{5^{}4}
9 ## \boxed{9**9**9}
9 ## \boxed{9^{9^{9^{9}}}}
""".strip().splitlines()


@pytest.mark.parametrize('row', HACKS)
def test_no_hack_is_paid(row):
  gold, response = row.split(' ## ')
  graded = grade({'answer': gold}, response)
  assert graded.verdict != Verdict.CORRECT, graded


INVISIBLE = [
  ('5', '\\boxed{4\u200b5}'),  # a zero-width space does not separate: it is 45
  ('5', '\\boxed{\u202e5\u202c4}'),
  ('5', '\\boxed{\u2475}'),  # (2) in one character
  ('5', '\\boxed{5\u0338}'),  # struck out
  ('10', '\\boxed{1\u041e}'),  # a Cyrillic letter
  ('12', '\\boxed{1\u00b2}'),  # 1 squared
  ('35', '\\boxed{3\u2075}'),  # 3 to the 5th
  ('x', '\\boxed{\u0445}'),  # a Cyrillic x
  ('-5', '\\boxed{5\u0304}'),
  ('5', '\\boxed{\u4e94}'),  # the word, not the digit
]


@pytest.mark.parametrize(('gold', 'response'), INVISIBLE)
def test_look_alikes_are_not_paid(gold, response):
  assert grade({'answer': gold}, response).verdict != Verdict.CORRECT


ECHOES = [
  (r'Simplify $\sqrt{180}$.', r'6\sqrt5', r'\boxed{\sqrt{180}}'),
  (r'Factor $x^2-9$.', '(x-3)(x+3)', r'\boxed{x^2 - 9}'),
  (r'Expand $(x+2)(x+3)$.', 'x^2+5x+6', r'\boxed{(x+2)(x+3)}'),
  (r'Compute $\dbinom{8}{4}$.', '70', r'\boxed{\dbinom{8}{4}}'),
  (r'Evaluate $2^{10}$.', '1024', r'\boxed{2^{10}}'),
  (r'Compute $5!$.', '120', r'\boxed{5!}'),
]


@pytest.mark.parametrize(('question', 'gold', 'response'), ECHOES)
def test_with_the_question_its_expressions_are_not_paid(question, gold, response):
  assert grade({'answer': gold, 'question': question}, response).verdict == Verdict.WRONG
  assert grade({'answer': gold, 'question': 'Another question.'}, response).verdict == Verdict.CORRECT


OURS = ('score_jax.core_types.', 'score_jax.graders.math', 'score_jax.graders.thinking')


@pytest.mark.parametrize(
  'path', sorted(pathlib.Path(math.__file__).parent.rglob('*.py')), ids=lambda path: f'{path.parent.name}/{path.name}'
)
def test_nothing_is_evaluated_and_nothing_else_imported(path):
  allowed = {
    *('collections', 'collections.abc', 'contextlib', 'dataclasses', 'flint', 'fractions', 'functools', 'math', 're'),
    *('threading', 'typing', 'unicodedata', 'zlib'),
  }
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      assert {alias.name for alias in node.names} <= allowed
    elif isinstance(node, ast.ImportFrom):
      names = {f'{node.module}.{alias.name}' for alias in node.names}
      assert node.module in allowed or all(name.startswith(OURS) for name in names)
    elif isinstance(node, ast.Name):
      assert node.id not in {'eval', 'exec', 'compile', 'open', '__import__', 'getattr', 'globals'}


def test_there_are_enough_rows():
  assert len(HACKS) + len(INVISIBLE) + len(ECHOES) >= 200
