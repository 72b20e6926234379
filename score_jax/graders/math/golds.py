# SPDX-License-Identifier: Apache-2.0
"""Reads what files give as a reference: a box, a whole solution, and the shapes of public data sets.

`['12']` (DeepScaleR's minerva and olympiad files), `19 (games)` (ASDiv), `-2 < x: (-2, \\infty)` and `[x = 1, y = 5]`
(college_math), two forms with ## between them (Odyssey), `C. 1-i` (LIMO).
"""

import re

from score_jax.graders.math.extract import boxes_of_sentence, extract, last_boxes
from score_jax.graders.math.parser.clean import unwrap

_SOLUTION = 200  # characters from which a reference is taken for a whole solution
_LIST = re.compile(r"""\[ *(?:'[^']*'|"[^"]*")(?: *, *(?:'[^']*'|"[^"]*"))* *\]""")
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")
_ALTERNATIVES = re.compile(r'(?:\\# *\\#|##)')
_TWO_FORMS = re.compile(  # x > 5: (5, 9)
  r'(.*(?:[<>]|\\(?:le|ge|leq|geq|leqslant|geqslant|neq?)(?![a-z])|\b[Nn]o |\b[Aa]ll ).*?) *: *'
  r'(\$?(?:[(\[{]|\\(?:left|mathbb|\{|oslash|emptyset|varnothing)).*)'
)
_NAMED = re.compile(r'\[ *([a-z](?:_\{?\w\}?)? *=[^\[\]]*)\]')  # [x = 1, y = 5]
_BREAK = re.compile(r'\s*\\n\s*$')  # a line's end, as written in a list's text
_LEAD = re.compile(
  r'(?:the )?(?:final )?(?:solutions?|answers?|ans)\b *(?:is|are)?(?: given by)? *[:=]? *(?=\S)', re.IGNORECASE
)


def gold_text(gold: str) -> str:
  """Returns the answer of a reference: boxed, after ####, of a solution, of a list's text, or all."""
  if '\\boxed' in gold or '\\fbox' in gold:
    boxed = last_boxes(gold)
    return boxes_of_sentence(gold) or (boxed[1] if boxed else gold)
  if '####' in gold or len(gold) > _SOLUTION:
    extracted = extract(gold)
    return extracted.texts[0] if extracted else gold
  return shaped(gold.strip())


def shaped(gold: str) -> str:
  """Takes off `['...']`, a second form behind ##, a first one before a colon, and a lead."""
  if _LIST.fullmatch(gold):
    entries = [single or double for single, double in _QUOTED.findall(gold)]
    gold = ', '.join(_BREAK.sub('', entry).replace('\\\\', '\\') for entry in entries)
  first, *rest = _ALTERNATIVES.split(gold)
  if rest and first.strip():
    gold = first.strip()
    gold += '$' * (gold.count('$') % 2)
  gold = unwrap(_LEAD.sub('', gold, count=1) if _LEAD.match(gold) else gold)
  forms = _TWO_FORMS.fullmatch(gold)
  named = _NAMED.fullmatch(gold)
  return forms[2] if forms else named[1] if named else gold
