# SPDX-License-Identifier: Apache-2.0
"""The words of answers: units, functions without a backslash, separators, plain text."""

import re


def _set(text: str) -> frozenset[str]:
  return frozenset(text.split())


_UNIT_NAMES = {
  'degree': 'degrees deg', 'dollar': 'dollars usd bucks', 'cent': 'cents', 'euro': 'euros', 'yuan': 'yuan',
  'percent': 'pct percentage', 'cm': 'centimeter centimeters centimetre centimetres', 'mm': 'millimeter millimeters',
  'm': 'meter meters metre metres', 'km': 'kilometer kilometers kilometre kilometres', 'ft': 'foot feet',
  'inch': 'inches', 'yd': 'yard yards', 'mile': 'miles mi', 'kg': 'kilogram kilograms', 'g': 'gram grams gm',
  'mg': 'milligrams', 'lb': 'pound pounds lbs', 'oz': 'ounce ounces', 'ton': 'tons', 'l': 'liter liters litre litres',
  'ml': 'milliliter milliliters', 'gallon': 'gallons gal', 'cup': 'cups', 'hour': 'hours hr hrs',
  'min': 'minute minutes mins', 'sec': 'second seconds', 'day': 'days', 'week': 'weeks', 'month': 'months',
  'year': 'years yr yrs', 'mph': '', 'kmh': 'kph', 'hz': '', 'rad': 'radian radians', 'unit': 'units',
}  # fmt: skip
UNITS = {word: name for name, words in _UNIT_NAMES.items() for word in [name, *words.split()]}
AMBIGUOUS = {'in', 'm', 'g', 'l', 'min', 'deg', 'sec'}  # also a symbol, a relation or a function
FUNCTIONS = _set(
  'sin cos tan cot sec csc arcsin arccos arctan arccot asin acos atan sinh cosh tanh ln log lg exp abs max min gcd lcm'
)
_NAMES = _set(
  'sqrt pi infty theta alpha beta gamma lambda sin cos tan cot sec csc arcsin arccos arctan ln log lg exp abs cup '
  'choose frac times cdot degree percent le ge phi omega emptyset pm'
)
PLAIN = {name: name for name in _NAMES} | {  # names that may be written without a backslash
  'infinity': 'infty', 'inf': 'infty', 'oo': 'infty', 'asin': 'arcsin', 'acos': 'arccos', 'atan': 'arctan',
  'degrees': 'degree', 'pct': 'percent', 'percentage': 'percent', 'leq': 'le', 'geq': 'ge',
}  # fmt: skip
SEPARATORS = frozenset(('and', 'or', '&'))
FILLERS = _set('the a an is are about approximately exactly only so then thus equals per')
MAGNITUDES = {
  'hundred': 100, 'thousand': 1000, 'million': 10**6, 'billion': 10**9, 'trillion': 10**12, 'dozen': 12,
}  # fmt: skip
# Words of one row exclude each other; the first of a pair stands for the second.
OPPOSITES = (
  'north south east west', 'up down', 'left right', 'ago from+now later hence', 'profit loss', 'gain loss',
  'increase decrease', 'more less', 'more fewer', 'above below', 'bc ad', 'bce ce', 'clockwise counterclockwise',
)  # fmt: skip
EMPTY = frozenset(('no solution', 'no solutions', 'no real solution', 'no real solutions', 'empty set'))
WORDS = _set('yes no odd even true false none all neither both east west north south am pm')


def unit_name(words: str) -> str:
  """Returns 'inch^2' for 'square inches'; '' for words that are no known unit."""
  names = []
  power = ''
  for word in re.findall(r'[a-z]+|\^?[0-9]', words.lower()):
    if word in ('square', 'sq'):
      power = '^2'
    elif word in ('cubic', 'cu'):
      power = '^3'
    elif word[-1].isdigit():
      power = '^' + word[-1]
    elif word in UNITS:
      names.append(UNITS[word])
    elif word == 'in' and not names:
      names.append('inch')
    elif word == 's' and names:
      names.append('sec')
    elif word == 'h' and names:
      names.append('hour')
  if names in (['km', 'hour'], ['kmh']):
    return 'kmh'
  if names in (['mile', 'hour'], ['mph']):
    return 'mph'
  return '' if names in ([], ['unit']) else '/'.join(names) + power


_SIDES = frozenset(word.replace('+', ' ') for row in OPPOSITES for word in row.split())


def side_of(words: str) -> str:
  """Returns the word of OPPOSITES among these, '' if none."""
  alone = re.findall('[a-z]+', words.lower())
  pairs = [' '.join(pair) for pair in zip(alone, alone[1:], strict=False)]
  return next((word for word in (*pairs, *alone) if word in _SIDES), '')


def plain_text(text: str) -> str:
  """Returns text as it is compared: lower case, without articles, macros and punctuation."""
  text = re.sub(r'\\[a-zA-Z]+', ' ', text.lower())
  words = re.findall(r'[^\W_]+|[-+]', text)
  return ' '.join(word for word in words if word not in ('the', 'a', 'an') or len(words) == 1)
