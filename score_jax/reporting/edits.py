"""How far apart two attempts are: the exact edit distance of their texts, and the paper's ratio."""

_LONGEST = 50_000  # characters; a pair of that length takes a second


def distance(a: str, b: str) -> int:
  """Fewest insertions, deletions and substitutions of characters that turn `a` into `b` (Levenshtein).

  Bit-parallel (Myers 1999, in Hyyro's form): a column of the table is a whole number of len(b) bits, whose arithmetic
  Python does in machine words. A pair of 2,000 characters takes about 6 ms, equal ends for nothing.
  """
  a, b = _without_common_ends(a, b)
  if len(a) < len(b):
    a, b = b, a  # the loop is over the longer, and its numbers as wide as the shorter
  if not b:
    return len(a)
  where: dict[str, int] = {}
  for i, character in enumerate(b):
    where[character] = where.get(character, 0) | 1 << i
  ones, last = (1 << len(b)) - 1, 1 << (len(b) - 1)
  up, down, score = ones, 0, len(b)  # rows of the column that are one more, and one less, than the row above
  for character in a:
    match = where.get(character, 0)
    diagonal = ((((match & up) + up) ^ up) | match | down) & ones
    right_up = down | (ones & ~(diagonal | up))
    right_down = diagonal & up
    score += bool(right_up & last) - bool(right_down & last)
    right_up = right_up << 1 | 1
    up = ((right_down << 1) | ~(diagonal | right_up)) & ones
    down = right_up & diagonal & ones
  return score


def ratio(a: str, b: str) -> float:
  """The paper's: edit distance over the total length of both texts; 0 if both are empty, 1 if one is.

  At most 0.5 for texts of equal length. NaN for texts that are too long to compare.
  """
  if a == b:
    return 0.0
  return distance(a, b) / (len(a) + len(b)) if max(len(a), len(b)) <= _LONGEST else float('nan')


def _without_common_ends(a: str, b: str) -> tuple[str, str]:
  """What is left without the beginning and the end that both share: the distance is the same."""
  begin = _common(a, b, min(len(a), len(b)))
  a, b = a[begin:], b[begin:]
  end = _common(a[::-1], b[::-1], min(len(a), len(b)))
  return a[: len(a) - end], b[: len(b) - end]


def _common(a: str, b: str, most: int) -> int:
  """Length of the shared beginning, by halving: comparing slices is much faster than comparing characters."""
  low, high = 0, most
  while low < high:
    middle = (low + high + 1) // 2
    if a[low:middle] == b[low:middle]:
      low = middle
    else:
      high = middle - 1
  return low
