# SPDX-License-Identifier: Apache-2.0
"""Brings what has many spellings to one: unicode, spacing, delimiters, separators of thousands.

Text leaves as ASCII LaTeX; characters without an ASCII meaning stay, and the tokenizer refuses them.
"""

import re
import unicodedata

_SIGNS = {
  '−': '-', '–': '-', '—': '-', '‐': '-', '‑': '-', '×': r'\times ', '·': r'\cdot ', '⋅': r'\cdot ', '∙': r'\cdot ',
  '÷': '/', '∕': '/', '⁄': '/', '√': r'\sqrt ', '∛': r'\sqrt[3]', 'π': r'\pi ', 'Π': r'\Pi ', '∞': r'\infty ',
  '≤': r'\le ', '≥': r'\ge ', '⩽': r'\le ', '⩾': r'\ge ', '≠': r'\ne ', '≈': r'\approx ', '≡': r'\equiv ',
  '∪': r'\cup ', '∩': r'\cap ', '∈': r'\in ', '∅': r'\emptyset ', '°': r'^\circ ', '±': r'\pm ', '∓': r'\mp ',
  '½': r'\frac{1}{2}', '⅓': r'\frac{1}{3}', '⅔': r'\frac{2}{3}', '¼': r'\frac{1}{4}', '¾': r'\frac{3}{4}',
  '⅕': r'\frac{1}{5}', '⅖': r'\frac{2}{5}', '⅗': r'\frac{3}{5}', '⅘': r'\frac{4}{5}', '⅙': r'\frac{1}{6}',
  '⅚': r'\frac{5}{6}', '⅛': r'\frac{1}{8}', '⅜': r'\frac{3}{8}', '⅝': r'\frac{5}{8}', '⅞': r'\frac{7}{8}',
  'ℝ': r'\mathbb{R}', 'ℤ': r'\mathbb{Z}', 'ℕ': r'\mathbb{N}', 'ℚ': r'\mathbb{Q}', '∖': r'\setminus ', '…': r'\dots ',
  '⟨': r'\langle ', '⟩': r'\rangle ', '⌊': r'\lfloor ', '⌋': r'\rfloor ', '⌈': r'\lceil ', '⌉': r'\rceil ',
  '“': '"', '”': '"', '‘': "'", '’': "'", '′': "'", '∶': ':', '→': r'\to ', '∠': r'\angle ', '△': r'\triangle ',
  '€': '', '£': '', '¥': '', '。': '.', '，': ',', '、': ',', '；': ';', 'µ': r'\mu ', '或': ' or ', '和': ' and ',
}  # fmt: skip
GREEK = (
  'alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega '
  'Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega'
)
_SIGNS |= {a: rf'\{name} ' for a, name in zip('αβγδεζηθικλμνξρστυφχψωΓΔΘΛΞΣΦΨΩ', GREEK.split(), strict=True)}
_SUPER = dict(zip('⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ', '0123456789+-n', strict=True))
_SUB = dict(zip('₀₁₂₃₄₅₆₇₈₉', '0123456789', strict=True))

_RAISED = re.compile('[' + ''.join(_SUPER) + ']{1,20}')
_LOWERED = re.compile('[' + ''.join(_SUB) + ']{1,20}')
_NOTHING = re.compile(
  r'\\(?:m?left|m?right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|boldsymbol|bm|'
  r'mathstrut|strut|hfill|hline|centering|ensuremath|bf|rm|it)(?![a-zA-Z])\.?'
)
_BLANK = re.compile(
  r'\\q?quad|\\(?:thinspace|medspace|thickspace|enspace|space|newline)(?![a-zA-Z])|(?<!\\)\\[;: \n~]|[~\t\n\r\f\v]'
)
_RUN_ON = re.compile(r'\\([lg]e)(?=[a-pr-z](?![a-zA-Z]))')  # \lex
_BARE_POINT = re.compile(r'(?<![0-9])\.(?= ?\\(?:overline|bar|dot)(?![a-z]))')
_TIMES = re.compile(r'(?<=[0-9]) ?[xX] ?(?=10 ?\^)')  # 1.6x10^{-19}
_DOUBLED = re.compile(r'\\\\(?=[a-zA-Z{}%$!,;])')
_FOUR_DIGITS_FOLLOW = r'(?=[0-9]{3}(?![0-9]))'
_THOUSANDS = re.compile(r'(?<=[0-9])(?: ?\{ ?, ?\} ?|, ?\\! ?|\\, ?|\\! ?,)' + _FOUR_DIGITS_FOLLOW)
_BLANK_THOUSANDS = re.compile(r'(?<![0-9.,])[0-9]{1,3}(?: [0-9]{3})+(?![0-9 ]*[0-9])(?! ?[/,])')
_WRAPPERS = (('$$', '$$'), ('$', '$'), (r'\(', r'\)'), (r'\[', r'\]'), ('**', '**'), ('`', '`'), ('"', '"'))


def to_ascii(text: str) -> str:
  """Writes signs and digits of all scripts in ASCII, without format characters."""
  if text.isascii():
    return text
  text = _RAISED.sub(lambda m: '^{' + ''.join(_SUPER[c] for c in m[0]) + '}', text)
  text = _LOWERED.sub(lambda m: '_{' + ''.join(_SUB[c] for c in m[0]) + '}', text)
  text = ''.join(_SIGNS.get(c, c) for c in text)
  text = unicodedata.normalize('NFKC', text)
  return ''.join(_plain(c) for c in text)


def _plain(char: str) -> str:
  if char.isascii():
    return char
  category = unicodedata.category(char)
  if category == 'Nd':
    return str(unicodedata.digit(char))
  if category == 'Zs':
    return ' '
  return '' if category == 'Cf' else _SIGNS.get(char, char)


def unwrap(text: str) -> str:
  """Takes delimiters, emphasis, quotation marks and a full stop off."""
  while True:
    before = text
    text = text.strip().rstrip('.,;:?').strip()
    text = text.removesuffix('\\')
    if text.count('"') == 1:
      text = text.strip('"')
    for left, right in _WRAPPERS:
      inner = text[len(left) : -len(right)]
      if len(text) > len(left) + len(right) and text.startswith(left) and text.endswith(right) and left not in inner:
        text = inner
    if text == before:
      return text


def decimal_comma(text: str) -> str:
  """Returns `1000,99` with a point; other texts as they are."""
  return re.sub(r'(-?[0-9]+),([0-9]+)', r'\1.\2', text) if re.fullmatch('-?[0-9]+,[0-9]+', text) else text


def clean(text: str) -> str:
  """Returns the ASCII LaTeX of an answer, without its delimiters."""
  text = unwrap(to_ascii(text).replace('\\"', '"').replace('...', r'\dots '))
  if r'\begin' not in text:
    text = _DOUBLED.sub(lambda _: '\\', text)
  text = _RUN_ON.sub(r'\\\1 ', text)
  text = _BARE_POINT.sub('0.', text)
  text = _TIMES.sub(r'\\times ', text)
  text = _NOTHING.sub(' ', text)
  text = _BLANK.sub(' ', text)
  text = _THOUSANDS.sub('', text)
  text = text.replace(r'\!', '').replace(r'\,', ' ').replace(r'\$', '').replace('$', ' ').replace(r'\%', '%')
  text = re.sub(' {2,}', ' ', text)
  text = _BLANK_THOUSANDS.sub(lambda m: m[0].replace(' ', ''), text)
  return unwrap(text)
