"""Forms in which models of several families and languages give an answer: read, and another value is not paid."""

import pytest

from score_jax.core_types import Verdict
from score_jax.graders.math import grade

ANY = [
  r'\boxed{%s}', r'We get $\boxed{%s}$.', r'Thus \[ \boxed{%s}. \]', 'Therefore,\n$$\n\\boxed{%s}\n$$', r'\fbox{%s}',
  r'\boxed{x = %s}', r'\boxed{\text{The answer is } %s}', '**Answer:** $%s$', r'**Final Answer:** \(%s\)',
  '**Final Answer**\n\n$\\boxed{%s}$', '### Final Answer:\n\\[ %s \\]',
  'Final Answer: The final answer is $%s$. I hope it is correct.', r'The final answer is: $\boxed{%s}$',
  '## Step 3: Add both\nThey are added.\n\nThe final answer is: $\\boxed{%s}$<|eot_id|>', 'The answer is $%s$.',
  r'The answer is \(%s\).', 'The correct answer is $%s$.', 'So the answer is: $%s$',
  '<think>Maybe \\boxed{7}?</think>\n\n\\boxed{%s}', '<think>Maybe 7?</think> The answer is $%s$.',
  '<answer>%s</answer>', '<think>7</think><answer>$%s$</answer>', r'<answer> \boxed{%s} </answer>', 'Thus, $x = %s$.',
  r'Hence \[ x = %s. \]', '#### %s', 'work\n#### $%s$', r'#### \boxed{%s}', '\\boxed{%s}\n\n#### Check\nIt fits.',
  '#### Step 1: begin\n\nIt is easy.\n\n#### Step 2: end\n\n\\boxed{%s}',
  'The final answer is $%s$.\n\n#### Check\nIt fits.', 'La respuesta es $%s$.',
  r'Por lo tanto, la respuesta final es $\boxed{%s}$.', 'Die Antwort ist $%s$.',
  r'Die endgültige Antwort lautet: $\boxed{%s}$', 'La réponse est $%s$.', r'Donc la réponse finale est $\boxed{%s}$.',
  '答案是$%s$。', r'所以答案为 $\boxed{%s}$。', '最终答案：$%s$',
  '\\boxed{%s}<|im_end|>\n<|im_start|>user\nAnd \\boxed{7}?',
  r'\boxed{%s}<|endoftext|>Question: what is 3? Answer: \boxed{3}', r'\boxed{%s}</s>', '$%s$', '%s',
]  # fmt: skip
NUMBERS = [
  'The answer is %s.', 'The answer is %s dollars.', 'the answer is: %s', 'So, the answer is **%s**.',
  '**The answer is %s.**', 'Answer: %s', '**Answer: %s**', 'A: %s', 'Answer: $%s per day', '#### Answer: %s',
  '#### $%s', '#### %s eggs', '### Answer\n%s', '## Final Answer: %s', 'Final answer: %s', '**Final Answer:** %s',
  '**Final Answer**\n%s', 'The final answer is %s.', 'The final answer is %s. I hope it is correct.',
  'The answer is `%s`.', 'So she makes **$%s** every day.', 'She makes $%s.', 'So the total is %s.',
  'So the total is $%s.', 'Total: %s', 'She sells 4 and so the total is %s eggs.',
  'It costs $7 first. The rest is what counts. It makes a profit of $%s.',
  'All that is left is 41 - 2 = %s. Jenny eats %s cookies.',
  'Bill is on floor 30 - 2 = %s. Bill is now on the %sth floor.',
  '```output\n%s\n```\n%s people were asked for other reasons.', 'Therefore there are %s of them.',
  'We find that it equals %s.', 'La respuesta es %s.', 'La respuesta final es: %s', 'Die Antwort ist %s.',
  'Die Antwort lautet %s.', 'La réponse est %s.', 'La réponse finale est : %s', '答案是%s。', '答案：%s',
  '最终答案为%s',
  r'\boxed{%s \text{ eggs}}', r'\boxed{\$%s}', r'\boxed{%s\,\text{cm}}', r'\boxed{%s.00}', r'\boxed{%s} dollars',
  r'$\boxed{%s}$ eggs.', '$%s$ eggs', '%s eggs', '$%s', '%s.0', 'The answer is %s.<|eot_id|>',
  'The answer is %s.\n<end_of_turn>\n<start_of_turn>user\nAnd 5?', 'The answer is %s.</s>',
  'Question: how many?\nAnswer: She has 9 + 9 = %s eggs. The answer is %s.', '[%s]', '(%s)', 'The answer is (%s).',
  'x = %s', 'The result is %s.', 'Thus, we have %s eggs in total.', 'Let me check.\n\nYes, it is %s.',
  r'Respuesta: \boxed{%s}', 'Antwort: %s', 'Réponse : %s', 'Respuesta: %s', '**%s**', 'Hence: %s', '= %s',
  'Janet makes %s dollars a day.\n#### %s', 'The answer is %s\nThe answer is %s',
]  # fmt: skip
OTHER = {'18': '19', '1,024': '1,025', r'\frac{1}{2}': r'\frac{1}{3}', r'2\sqrt{3}': r'3\sqrt{2}'}  # another value
ROWS = [(form, gold) for form in ANY for gold in ('18', r'\frac{1}{2}', r'2\sqrt{3}')]
ROWS += [(form, gold) for form in NUMBERS for gold in ('18', '1,024')]
# Two words before a number are words; a comma in brackets separates.
NOT_READ = {('She makes $%s.', '18'), ('She makes $%s.', '1,024')}
NOT_READ |= {(form, '1,024') for form in ('[%s]', '(%s)', 'The answer is (%s).')}


@pytest.mark.parametrize(('form', 'gold'), ROWS)
def test_a_form_is_read(form, gold):
  accepted = grade({'answer': gold}, form.replace('%s', gold)).verdict == Verdict.CORRECT
  assert accepted == ((form, gold) not in NOT_READ)
  assert grade({'answer': gold}, form.replace('%s', OTHER[gold])).verdict != Verdict.CORRECT


def test_most_forms_are_read():
  assert len(ROWS) > 213
  assert len(NOT_READ) <= 6
