"""Attempts side by side in the report: lines and words that differ, what folds, colours of programs."""

import json
import pathlib
import random
import re
import shutil
import subprocess

import pytest
from report_rig import conversation, drawn, run_folder, without_scripts

from score_jax.core_types import Stop, Verdict
from score_jax.reporting import report_data, report_page, syntax
from score_jax.reporting.rows import Attempt

ASSETS = pathlib.Path(__file__).parent.parent / 'score_jax/assets/report'
CODE = """Here it is:
```python
# Doubles 😀 twice
def f(a: int):
  return f"{a}" * 2 if a else None
```
def is_no_code():
"""


def coloured(text):
  """(kind, text) of every coloured stretch, cut as JavaScript would."""
  units, at, result = text.encode('utf-16-le'), 0, []
  spans = syntax.spans(text)
  for skipped, letters, kind in zip(spans[::3], spans[1::3], spans[2::3], strict=True):
    at += skipped
    result.append((syntax.KINDS[kind], units[2 * at : 2 * (at + letters)].decode('utf-16-le')))
    at += letters
  return result


def test_programs_are_coloured_in_their_blocks_alone():
  expected = [
    *[('comment', '# Doubles 😀 twice'), ('keyword', 'def'), ('name', 'f'), ('builtin', 'int'), ('keyword', 'return')],
    *[
      ('string', 'f"{'),
      ('string', '}"'),
      ('number', '2'),
      ('keyword', 'if'),
      ('keyword', 'else'),
      ('keyword', 'None'),
    ],
  ]
  assert coloured(CODE) == expected
  assert coloured(CODE.replace('```\n', '')) == [*expected, ('keyword', 'def'), ('name', 'is_no_code')], (
    'without an end'
  )
  assert syntax.spans('no program, if only `return 2`') == [] and syntax.spans('```\nreturn 2\n```') == []
  assert (
    tuple(re.findall(r"'(\w+)'", re.search('const SYNTAX = (.*);', (ASSETS / 'conversation.js').read_text())[1]))
    == syntax.KINDS
  )


def in_node(expression, *values):
  """What an expression of diff.js gives for JSON values v[0], v[1], ..."""
  node = shutil.which('node')
  if not node:
    pytest.skip('needs node')
  script = (
    ASSETS / 'diff.js'
  ).read_text() + f'const v = {json.dumps(values)}; console.log(JSON.stringify({expression}))'
  done = subprocess.run([node, '-e', script], capture_output=True, text=True, check=True, timeout=60)
  return json.loads(done.stdout)


STRETCHES = (
  'v.map(([a, b]) => stretches(lined(a), lined(b)).map((s) => [s.same, s.rows.map((r) => r.map((l) => l && l.text))]))'
)


def test_lines_that_have_most_words_in_common_stand_side_by_side():
  a = 'one\nkept\nx = old + 1\nnothing like it\nend'
  b = 'one\nkept\nquite another thing\nx = new + 1\nend'
  [result] = in_node(STRETCHES, [a, b])
  changed = [[None, 'quite another thing'], ['x = old + 1', 'x = new + 1'], ['nothing like it', None]]
  assert result == [[True, [['one', 'one'], ['kept', 'kept']]], [False, changed], [True, [['end', 'end']]]]
  marks = in_node('lettersChanged(lined(v[0])[0], lined(v[1])[0])', 'say old word now', 'say new text now')
  assert ''.join(c for c, new in zip('say new text now', marks['b'], strict=True) if new) == 'new text', 'the gap too'


def test_the_stretches_of_a_difference_give_both_texts_again():
  rng = random.Random(0)
  texts = [
    ''.join(rng.choice(['a b\n', 'b\n', '\n', 'c d e\n', 'f']) for _ in range(rng.randrange(40))) for _ in range(80)
  ]
  pairs = [*zip(texts[::2], texts[1::2], strict=True), ('x\n' * 3000, 'y\n' * 3000)]
  for (a, b), result in zip(pairs, in_node(STRETCHES, *pairs), strict=True):
    rows = [row for _, part in result for row in part]
    assert ['\n'.join(row[i] for row in rows if row[i] is not None) for i in range(2)] == [a, b]
    assert all(row[0] == row[1] for same, part in result if same for row in part)
    assert all(here[0] != after[0] for here, after in zip(result, result[1:], strict=False))


def test_a_text_is_cut_into_lines_with_its_colours():
  text = f'{CODE}"""two\nlines"""'
  parts = in_node('lined(v[0], v[1])', text, syntax.spans(text))
  assert [line['text'] for line in parts] == text.split('\n')
  assert [(syntax.KINDS[p['kind']], p['text']) for line in parts for p in line['parts'] if p['kind'] >= 0] == coloured(
    text
  )


@pytest.mark.slow
def test_a_browser_folds_what_is_the_same_and_marks_what_differs(tmp_path):
  same = '\n'.join(f'  line_{i} = {i}' for i in range(30))
  hostile = '</script><b>"""\u202e'
  programs = [f'```python\ndef f():\n{same}\n  return "{hostile}"{end}\n```' for end in ('', ' + 1')]
  attempts = [
    Attempt(text, '', verdict, Stop.END_OF_TURN, 9, -1.0)
    for text, verdict in zip(programs, (Verdict.WRONG, Verdict.CORRECT), strict=True)
  ]
  copied = conversation(1, 'q', attempts=(attempts[0], attempts[0]))
  for name, row in dict(two=conversation(0, 'q', attempts=tuple(attempts)), copy=copied).items():
    folder = run_folder(tmp_path / name, [row], steps=0)
    report_page.write([folder], tmp_path / f'{name}.html')
    dom, complaints = drawn(tmp_path / f'{name}.html')
    assert complaints == [] and '<b>"' not in dom
    shown = without_scripts(dom)
    assert '&lt;/script&gt;' in shown and '&lt;U+202E&gt;' in shown and 'class="py-keyword">def' in shown
    assert ('29 lines are the same in both' in shown, 'letter by letter' in shown) == (name == 'two', name == 'copy')
    assert ('right line-ins' in shown) == bool(re.search(r'<ins>(<span[^>]*>)?[^<]*\+', shown)) == (name == 'two')
  assert report_data.collect([folder])['runs'][0]['conversations']['rows'][0]['attempts'][0]['syntax']
