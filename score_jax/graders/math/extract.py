# SPDX-License-Identifier: Apache-2.0
"""Finds where a response gives its answer. The last statement counts: a response may correct itself.

It reads what follows the last </think>, and in it the last <answer> element. In that text it takes the last of
- \\boxed{...} or \\fbox{...}, braces balanced; boxes joined by commas, `and`, `or` and blanks alone are one list;
- "Final Answer: The final answer is $...$. I hope it is correct." (Lewkowycz et al. 2022, appendix D.2);
- `#### ...` (GSM8K).
Without one of these, it takes "answer is ...", the last $...$, \\(...\\), \\[...\\], a text that is nothing but a short
answer, or a number that its sentence ends on ("so it is 28 percent"). A cut-off box is none; an empty last box is an
answer that says nothing.
"""

import re
from typing import NamedTuple

from score_jax.graders import thinking
from score_jax.graders.math import budget

_TAIL = 8_000  # characters from the end with looser forms
_BOXES = 40  # boxes from the end that are looked at
_SHORT = 120  # characters of a text that is an answer by itself
_BOX = re.compile(r'\\(?:boxed|fbox) *\{')
_BRACE = re.compile(r'\\[^a-zA-Z]|[{}]')
_JOINT = re.compile(
  r'(?:[\s,;&$]|\\[()\[\]]|\\+(?:quad|qquad|,|;|!| |(?:text|mbox) *\{ *(?:and|or)? *,? *\})|\band\b|\bor\b)*'
)
_LIST_JOINT = re.compile(
  r'(?!.*\b(?:wait|no|not|or|actually|instead|correct\w*|rather|sorry|wrong|mean|but|than)\b)'
  r'(?=.*(?:\band\b|[,;&]))[^.?!\n]*',
  re.IGNORECASE,
)
_END_TOKEN = re.compile(r'<\|[^|<>]{1,40}\|>|</s>|<eos>|<end_of_turn>|<start_of_turn>')
_HOPE = re.compile(r'\bI hope (?:it|this|that) is correct', re.IGNORECASE)
_FINAL = re.compile(r'final answer\W{0,6}(?:\s+is\b|(?:\s|\*)*:|\s*\n)', re.IGNORECASE)
_ANSWER = re.compile(r'\banswer\W{0,4}(?:\s+is\b|\s+are\b|\s*=|(?:\s|\*)*:)', re.IGNORECASE)
_MATH = re.compile(
  r'\$\$(.{1,600}?)\$\$|(?<!\\)\$((?:[^$\\]|\\.){1,600}?)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]', re.DOTALL
)
_NUMBER = re.compile(
  r'(?<![\w.,/^\\-])[-+\u2212]?[$€£¥]?(?:[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9])|[0-9]+)?(?:[.,][0-9]+)?(?:/[0-9]+)?'
  r'(?<=[0-9])(?![0-9])(?=$|[^\w^/(\\]|[a-zµ]{1,3}[²³]?(?!\w))'
)
_LEADS = re.compile(
  r'(?:\b(?:is|are|was|equals?|gives?|by|costs?|total(?:s|ing)?|of|to|get|has|have)|it[’\']s|=|≈|:)\s*'
  r'(?:about|approximately|exactly|only|just)?\s*\$?$',
  re.IGNORECASE,
)
_HEDGE = re.compile(r'\b(?:or|and|either|not|between)\s*\$?$|[0-9][,;]?\s*$', re.IGNORECASE)
_PERCENT = re.compile(r'\s*\$?\s*(?:\\?%|percent\b|pct\b)')
_VERBS = frozenset(('is', 'are', 'it', 'so', 'was', 'we', 'get', 'has', 'find'))
_NEGATED = re.compile(r'\W*(?:not|wrong|incorrect|correct|unknown|unclear|unchanged)\b', re.IGNORECASE)


class Extracted(NamedTuple):
  """An answer as it stands in the text.

  `texts` holds one answer, or several looser readings, of which the first readable one counts. `parts` joins the boxes
  of a sentence, for references that are lists.
  """

  texts: tuple[str, ...]
  parts: str = ''


def extract(text: str) -> Extracted | None:
  """Returns the answer of a response, or None."""
  text = scope(text)
  stated = [answer for answer in (last_boxes(text), final_answer(text), hashes(text)) if answer]
  if stated:
    return Extracted((max(stated)[1],), boxes_of_sentence(text))
  if _BOX.search(text, max(0, len(text) - _TAIL)):  # cut off: what it would have said is not known
    return None
  tail = text[-_TAIL:]
  ending = [answer for answer in (last_math(tail), last_number(tail)) if answer]
  loose = [whole(tail), answer_is(tail), max(ending)[1] if ending else None]
  texts = tuple(dict.fromkeys(answer for answer in loose if answer))
  return Extracted(texts) if texts else None


def scope(text: str) -> str:
  """Returns the part after the reasoning, without the tokens of a chat format."""
  text = thinking.answer(text)
  start = text.rfind('<answer>')
  if start >= 0:
    inside = text[start + 8 :].partition('</answer>')[0]
    text = inside if inside.strip() else text
    if start >= 0 and not last_boxes(text) and len(text) < budget.ANSWER_CHARS and text is inside:
      return '#### ' + ' '.join(text.split())
  match = _END_TOKEN.search(text[-_TAIL:].rstrip())
  if match:
    text = text[: max(0, len(text) - _TAIL) + match.start()] if match.start() else text
  return text


def last_boxes(text: str) -> tuple[int, str] | None:
  """Returns position and content of the last box, or of the last boxes that `,` and `and` join."""
  return joined_boxes(text, _JOINT)


def boxes_of_sentence(text: str) -> str:
  """Lists a last sentence's boxes (`\\boxed{1} for (a) and \\boxed{2} for (b)`); "" for one."""
  boxes = joined_boxes(text, _JOINT, _LIST_JOINT)
  return boxes[1] if boxes else ''


def joined_boxes(text: str, *joints: re.Pattern) -> tuple[int, str] | None:
  """Returns the last box with those before it, as far as a joint matches the text between."""
  boxes = []  # last first: (start, end, content)
  at = len(text)
  for _ in range(_BOXES):
    at = max(text.rfind('\\boxed', 0, at), text.rfind('\\fbox', 0, at))
    if at < 0:
      break
    match = _BOX.match(text, at)
    if not match:
      continue
    end = closing(text, match.end())
    if end is None:
      continue
    if boxes and end > boxes[-1][0]:  # it holds the box found before
      boxes[-1] = (at, end, text[match.end() : end])
      continue
    if boxes and (boxes[-1][0] - end > 60 or not any(joint.fullmatch(text, end + 1, boxes[-1][0]) for joint in joints)):
      break
    boxes.append((at, end, text[match.end() : end]))
  if not boxes:
    return None
  contents = list(dict.fromkeys(content.strip() for _, _, content in reversed(boxes)))
  joined = contents[0] if len(contents) == 1 else ', '.join(contents)
  return boxes[0][0], joined + _percent_after(text, boxes[0][1] + 1)


def _percent_after(text: str, at: int) -> str:
  return r'\%' if _PERCENT.match(text, at, at + 30) else ''


def closing(text: str, at: int) -> int | None:
  """Returns the index of the brace that closes a group opened before `at`, within an answer's length."""
  depth = 1
  for match in _BRACE.finditer(text, at, at + budget.ANSWER_CHARS + 1):
    depth += (match[0] == '{') - (match[0] == '}')
    if not depth:
      return match.start()
  return None


def final_answer(text: str) -> tuple[int, str] | None:
  """Returns the X of the last "final answer is X"."""
  start = max(0, len(text) - _TAIL)
  last = next(reversed(list(_FINAL.finditer(text, start))), None)
  if not last:
    return None
  segment = sentence(text[last.end() :])
  nested = _FINAL.match(segment.lstrip())
  if nested:
    segment = segment.lstrip()[nested.end() :]
  answer = within(segment)
  return (last.start(), answer) if answer else None


def sentence(text: str) -> str:
  """Returns the text up to "I hope it is correct", a line's or a sentence's end."""
  text = text[: 4 * budget.ANSWER_CHARS].lstrip(' *:\n\t"')
  hope = _HOPE.search(text)
  if hope:
    return text[: hope.start()].rstrip()
  depth = 0
  for index, char in enumerate(text):
    if char == '$':
      depth ^= 1
    ends = char == '\n' or (char in '.!?' and text[index + 1 : index + 2] in ('', ' ', '\n', '*', '"'))
    if not depth and ends and text[:index].count('\\[') == text[:index].count('\\]'):
      return text[:index]
  return text


def within(segment: str) -> str | None:
  """Returns a statement if it is mathematics or short; else its last formula or number."""
  box = last_boxes(segment)
  if box:
    return box[1]
  segment = segment.strip().strip('*').strip()
  if not segment or _NEGATED.match(segment):
    return None
  spans = list(_MATH.finditer(segment))
  outside = _MATH.sub(' ', segment)
  if len(spans) == 1 and not re.search(r'\w|%', outside):
    return _inner(spans[0])
  number = last_number(segment)
  if number and spans and number[0] > spans[-1].start():
    return number[1]
  if spans and len(spans) == 1 and len(outside.split()) > 1:
    span = spans[0]
    return _inner(span) + _percent_after(segment, span.end())
  if spans and len(outside.split()) <= 4 * len(spans):
    return segment
  if spans:
    return _inner(spans[-1])
  if len(segment.split()) <= 4 or not re.search('[a-z]{3}', segment):
    return segment
  return number[1] if number else (segment if len(segment) <= _SHORT else None)


def _inner(match: re.Match) -> str:
  return next(group for group in match.groups() if group is not None)


def hashes(text: str) -> tuple[int, str] | None:
  """Returns what follows the last ####."""
  at = text.rfind('####')
  if at < 0:
    return None
  line = text[at + 4 : at + 4 + budget.ANSWER_CHARS].lstrip('# ').partition('\n')[0].strip()
  return (at, line) if line else None


def whole(text: str) -> str | None:
  """Returns the whole text if it is short and without prose."""
  if len(text) > 4 * _SHORT:
    return None
  text = ' '.join(text.split())
  if not text or len(text) > _SHORT:
    return None
  formula = _MATH.search(text)
  if formula and re.search('[a-zA-Z]{2}', text[: formula.start()]):
    return None
  prose = re.findall(r'(?<![\\a-zA-Z])[a-zA-Z]{2,}', _MATH.sub(' ', text))
  return text if len(prose) <= 2 and not _VERBS & {word.lower() for word in prose} else None


def answer_is(text: str) -> str | None:
  """Returns what the last "answer is", unless negated, is followed by."""
  for match in reversed(list(_ANSWER.finditer(text))):
    segment = sentence(text[match.end() :])
    if not _NEGATED.match(segment):
      return within(segment)
  return None


def last_math(text: str) -> tuple[int, str] | None:
  """Returns the last formula between dollars or LaTeX's delimiters."""
  spans = list(_MATH.finditer(text))
  if not spans:
    return None
  return spans[-1].start(), _inner(spans[-1]) + _percent_after(text, spans[-1].end())


def last_number(text: str) -> tuple[int, str] | None:
  """Returns the last number outside of formulas, if its sentence leads to it alone."""
  skipped = max(0, len(text) - 2000)
  tail = _MATH.sub(lambda match: '$' * len(match[0]), text[skipped:])
  numbers = list(_NUMBER.finditer(tail))
  if not numbers:
    return None
  last = numbers[-1]
  before = tail[: last.start()].rstrip()
  if _HEDGE.search(before) or not (_LEADS.search(before + ' ') or _LEADS.search(before) or len(numbers) == 1):
    return None
  return skipped + last.start(), last[0].strip() + _percent_after(tail, last.end())
