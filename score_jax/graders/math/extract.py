# SPDX-License-Identifier: Apache-2.0
"""Finds where a response gives its answer. The last statement counts: a response may correct itself.

It reads what follows the last </think>, and in it the last <answer> element. In that text it takes the last of
- \\boxed{...} or \\fbox{...}, braces balanced; boxes joined by commas, `and`, `or` and blanks alone are one list;
- "Final Answer: The final answer is $...$. I hope it is correct." (Lewkowycz et al. 2022, appendix D.2);
- `#### ...` (GSM8K) before what reads as a value, or on the last line; else it is a heading.
Without one of these, it takes "answer is ...", the last $...$, \\(...\\), \\[...\\], a text that is nothing but a short
answer, a number that its sentence ends on ("so it is 28 percent"), or the one number of the last sentence, if it is
also the last number before ("5 + 4 = 9. Jenny eats 9 cookies."). Two signs of currency are no formula. A cut-off box is
none; an empty last box is an answer that says nothing.
"""

import re
from typing import NamedTuple

from score_jax.graders import thinking
from score_jax.graders.math import budget
from score_jax.graders.math.parser.answers import read
from score_jax.graders.math.parser.values import Text

_TAIL = 8_000  # characters from the end with looser forms
_HASHES = 20  # marks #### from the end that are looked at
_BOXES = 40  # boxes from the end that are looked at
_SHORT = 120  # characters of a text that is an answer by itself
_BOX = re.compile(r'\\(?:boxed|fbox) *\{')
_BRACE = re.compile(r'\\[^a-zA-Z]|[{}]')
_JOINT = re.compile(
  r'(?:[\s,;&$]|\\[()\[\]]|\\+(?:quad|qquad|,|;|!| |(?:text|mbox) *\{ *(?:and|or)? *,? *\})|\band\b|\bor\b)*'
  + r'(?:[a-zA-Z](?:_\{?\w\}?)? *= *)?'  # the name of what the next box holds
)
_NAME = re.compile(r'([a-zA-Z](?:_\{?\w\}?)?) *= *$')
_OTHER_PART = re.compile(
  r'(?!.*\b(?:wait|no|not|or|actually|instead|correct\w*|rather|sorry|wrong|mean|but|than|hmm|check)\b)'
  r'(?=.*\b(?:other|second|third|part \(?[b-e2-5]\)?))[^?!]*',
  re.IGNORECASE | re.DOTALL,
)
_LIST_JOINT = re.compile(
  r'(?!.*\b(?:wait|no|not|or|actually|instead|correct\w*|rather|sorry|wrong|mean|but|than)\b)'
  r'(?=.*(?:\band\b|[,;&]))[^.?!\n]*',
  re.IGNORECASE,
)
_END_TOKEN = re.compile(r'<\|[^|<>]{1,40}\|>|</s>|<eos>|<end_of_turn>|<start_of_turn>')
_HOPE = re.compile(r'\bI hope (?:it|this|that) is correct', re.IGNORECASE)
_FINAL = re.compile(r'final answer\W{0,6}(?:\s+is\b|(?:\s|\*)*:|\s*\n)', re.IGNORECASE)
_ANSWER = re.compile(r'\banswer\W{0,4}(?:\s+is\b|\s+are\b|\s*=|(?:\s|\*)*:)|答案(?:是|为|[:：])', re.IGNORECASE)
_LEAD = re.compile(r'(?:(?:the )?(?:final )?answer\b\W{0,3}(?:is\b)?[ :=*]*)', re.IGNORECASE)
_BOUNDARY = re.compile(r'[.!?:]\**\s+|\n')
_DOUBT = re.compile(r'\b(?:or|not|if|maybe|perhaps|either|between|about|step|first|wait)\b|\?', re.IGNORECASE)
_ANY_NUMBER = re.compile(r'(?<![\w.])[-+]?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?=(?:st|nd|rd|th)?(?![\w]))')
# Two signs of currency are no formula.
FORMULA = re.compile(
  r'\$\$(.{1,600}?)\$\$|(?<!\\)\$(?![0-9]'
  r'[^$\\]*\b[a-z]{2,} [a-z]{2,}\b[^$\\]*\$)((?:[^$\\]|\\.){1,600}?)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]',
  re.DOTALL,
)
_NUMBER = re.compile(
  r'(?<![\w.,/^\\-])[-+\u2212]?[$€£¥]?(?:[0-9]{1,3}(?:[, ][0-9]{3})+(?![0-9])|[0-9]+)?(?:[.,][0-9]+)?(?:/[0-9]+)?'
  r'(?<=[0-9])(?![0-9])(?=$|[^\w^/(\\]|[a-zµ]{1,3}[²³]?(?!\w))'
)
_LEADS = re.compile(
  r'(?:\b(?:is|are|was|equals?|gives?|by|costs?|total(?:s|ing)?|of|to|get|has|have)|it[’\']s|=|≈|:|(?<!\S)\*\*)\s*'
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
  ending = [answer for answer in (last_math(tail), last_number(tail), last_sentence(tail)) if answer]
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
  boxes = joined_boxes(text, _JOINT)
  names = {name for name in boxes.names if name} if boxes else set()
  if len(names) > 1:  # x = 5, y = 6: no hedge of one unknown
    boxes = joined_boxes(text)
  return boxes and (boxes.at, boxes.text)


def boxes_of_sentence(text: str) -> str:
  """Lists a last sentence's boxes (`\\boxed{1} for (a) and \\boxed{2} for (b)`); "" for one."""
  boxes = joined_boxes(text, _JOINT, _LIST_JOINT, _OTHER_PART)
  return boxes.text if boxes else ''


class Boxes(NamedTuple):
  """Boxes that are one statement: where it ends, its text, and the name that stands before each."""

  at: int
  text: str
  names: tuple[str, ...]


def joined_boxes(text: str, *joints: re.Pattern) -> Boxes | None:
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
  boxes.reverse()
  before = [_NAME.search(text, max(0, at - 20), at) for at, _, _ in boxes]
  names = tuple(match[1] if match else '' for match in before)
  contents = [content.strip() for _, _, content in boxes]
  if len(set(names)) == len(names) > 1 and all(names):
    contents = [f'{name}={content}' for name, content in zip(names, contents, strict=True)]
  joined = ', '.join(dict.fromkeys(contents))
  return Boxes(boxes[-1][0], joined + _percent_after(text, boxes[-1][1] + 1), names)


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
  spans = list(FORMULA.finditer(segment))
  outside = FORMULA.sub(' ', segment)
  if len(spans) == 1 and not re.search(r'\w|%', outside):
    return inside(spans[0])
  number = last_number(segment)
  if number and spans and number[0] > spans[-1].start():
    return number[1]
  if spans and len(spans) == 1 and len(outside.split()) > 1:
    span = spans[0]
    return inside(span) + _percent_after(segment, span.end())
  if spans and len(outside.split()) <= 4 * len(spans):
    return segment
  if spans:
    return inside(spans[-1])
  if len(segment.split()) <= 4 or not re.search('[a-z]{3}', segment):
    return segment
  return number[1] if number else (segment if len(segment) <= _SHORT else None)


def inside(match: re.Match) -> str:
  """Returns what stands between a formula's delimiters."""
  return next(group for group in match.groups() if group is not None)


def hashes(text: str) -> tuple[int, str] | None:
  """Returns what follows the last #### that is no heading."""
  at = len(text)
  for _ in range(_HASHES):
    at = text.rfind('####', 0, at)
    if at < 0:
      return None
    line, _, rest = text[at + 4 : at + 4 + budget.ANSWER_CHARS].lstrip('# ').partition('\n')
    line = line.strip()
    bare = _LEAD.sub('', line, count=1) if _LEAD.match(line) else line
    if bare and (not rest.strip() or is_value(bare)):
      return at, bare
  return None


def is_value(line: str) -> bool:
  """Returns True if a line is more than words."""
  try:
    return not isinstance(read(line), Text)
  except (budget.Unreadable, budget.Exhausted):
    return FORMULA.search(line) is not None


def last_sentence(text: str) -> tuple[int, str] | None:
  """Returns the one number of a whole last sentence, as the last number before it repeats it."""
  skipped = max(0, len(text) - 2000)
  tail = text[skipped:].rstrip()
  start = max((match.end() for match in _BOUNDARY.finditer(tail)), default=0)
  last = tail[start:]
  if not last.endswith(('.', '!', '.**')) or _DOUBT.search(last):
    return None
  numbers, before = _ANY_NUMBER.findall(last), _ANY_NUMBER.findall(tail[:start])
  if len(numbers) != 1 or not before or _amount(numbers[0]) != _amount(before[-1]):
    return None
  return skipped + start, before[-1]


def _amount(number: str) -> float:
  return float(number.replace(',', ''))


def whole(text: str) -> str | None:
  """Returns the whole text if it is short and without prose."""
  if len(text) > 4 * _SHORT:
    return None
  text = ' '.join(text.split())
  if not text or len(text) > _SHORT:
    return None
  formula = FORMULA.search(text)
  if formula and re.search('[a-zA-Z]{2}', text[: formula.start()]):
    return None
  prose = re.findall(r'(?<![\\a-zA-Z])[a-zA-Z]{2,}', FORMULA.sub(' ', text))
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
  spans = list(FORMULA.finditer(text))
  if not spans:
    return None
  return spans[-1].start(), inside(spans[-1]) + _percent_after(text, spans[-1].end())


def last_number(text: str) -> tuple[int, str] | None:
  """Returns the last number outside of formulas, if its sentence leads to it alone."""
  skipped = max(0, len(text) - 2000)
  tail = FORMULA.sub(lambda match: '$' * len(match[0]), text[skipped:])
  numbers = list(_NUMBER.finditer(tail))
  if not numbers:
    return None
  last = numbers[-1]
  before = tail[: last.start()].rstrip()
  if _HEDGE.search(before) or not (_LEADS.search(before + ' ') or _LEADS.search(before) or len(numbers) == 1):
    return None
  return skipped + last.start(), last[0].strip() + _percent_after(tail, last.end())
