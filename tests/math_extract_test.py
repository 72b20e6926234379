"""Finding the answer in a response."""

import pytest

from score_jax.core_types import Verdict
from score_jax.graders.math import grade
from score_jax.graders.math.extract import extract

ANSWERS = [
  (r'so \boxed{\frac{1}{2}} it is', r'\frac{1}{2}'),
  (r'so \boxed {7}', '7'),
  (r'so \fbox{7}', '7'),
  (r'\boxed{\{1,2\}}', r'\{1,2\}'),
  (r'\boxed{a \boxed{b}}', r'a \boxed{b}'),
  (r'\boxed{7}. Wait: \boxed{5}', '5'),
  (r'\boxed{7}. Hmm, \boxed{5', '7'),
  (r'\boxed{ {x } then \boxed{5}', '5'),
  (r'\boxed{7} and \boxed{5}', '7, 5'),
  (r'\(\boxed{7}\), \(\boxed{5}\)', '7, 5'),
  (r'\boxed{5} and \boxed{5}', '5'),
  (r'\boxed{28} percent', r'28\%'),
  ('Final Answer: The final answer is $5$. I hope it is correct.', '5'),
  ('The final answer is $3.50$. I hope it is correct.', '3.50'),
  (r'\boxed{4}. Final Answer: The final answer is $5$. I hope it is correct.', '5'),
  (r'The final answer is $4$. I hope it is correct. No: \boxed{5}', '5'),
  ('**Final Answer**\n$5$', '5'),
  ('**Final Answer:** 5', '5'),
  ('Final Answer: The volume of $ABCD$ is 120. I hope it is correct.', '120'),
  ('work\n#### 1,234', '1,234'),
  ('#### 4\nno\n#### 5', '5'),
  (r'<think>\boxed{1}</think> \boxed{2}', '2'),
  (r'<answer>\boxed{8}</answer>', '8'),
  ('<reasoning>1</reasoning><answer>42</answer>', '42'),
  ('<answer>1</answer> ... <answer>5</answer>', '5'),
  ('The answer is 5.', '5'),
  ('The answer is $x = 5$, as wanted.', 'x = 5'),
  ('Answer: 41 was a guess.\nAnswer: 42', '42'),
  ('The answer is not 5, it is 6.', '6'),
  (r'We get \[ x = 9 \] and are done.', ' x = 9 '),
  (r'We get $4$, then \(9\).', '9'),
  ('$28$ percent', '$28$ percent'),
  ('28 pct', '28 pct'),
  ('so the number is 10 which is 1,000.99€', '1,000.99'),
  ('There are 12 of them, so the total is 12.', '12'),
  ('\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}', r'\begin{pmatrix} 1 \\ 2 \end{pmatrix}'),
  ('It is 7.<|im_end|>\n<|im_start|>user\n8', '7'),
]


@pytest.mark.parametrize(('text', 'answer'), ANSWERS)
def test_the_last_statement_is_the_answer(text, answer):
  assert extract(text).texts[0] == answer


@pytest.mark.parametrize(
  'text',
  [
    '',
    ' ',
    'I do not know.',
    r'so \boxed{5',
    'it is between 4 and 5',
    'either 4 or 5',
    '<think>so 5',
    r'<think>\boxed{5}</think>',
    'AZYUK2A',
  ],
)
def test_there_is_no_answer(text):
  extracted = extract(text)
  assert extracted is None or grade({'answer': '5'}, text).verdict != Verdict.CORRECT


def test_boxes_of_one_sentence_answer_a_list_and_only_a_list():
  text = r'The roots are \boxed{1} for part (a), and \boxed{2} for part (b).'
  assert grade({'answer': '1, 2'}, text).verdict == Verdict.CORRECT
  assert grade({'answer': '2'}, text).verdict == Verdict.CORRECT
  assert grade({'answer': '1'}, text).verdict == Verdict.WRONG
  assert grade({'answer': '1, 2'}, r'\boxed{1}, no wait, \boxed{2}').verdict == Verdict.WRONG


def test_what_is_read_is_shown_but_cut():
  graded = grade({'answer': '5'}, r'\boxed{%s}' % ('1+' * 200 + '1'))
  assert graded.verdict == Verdict.WRONG
  assert graded.answer == ('1+' * 200)[:200]


def test_a_far_box_counts_and_a_far_remark_does_not():
  filler = 'and so on\n' * 100_000
  assert grade({'answer': '5'}, r'\boxed{5}' + filler).verdict == Verdict.CORRECT
  assert grade({'answer': '5'}, 'the answer is 5.' + filler).verdict == Verdict.UNPARSED
