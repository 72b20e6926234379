"""Measures the sandbox by hand: `python tests/rigs/sandbox_measure.py published|run_ons|mutants|speed|pool|soak|load`.

`--data=FOLDER` holds mbpp.jsonl and HumanEval.jsonl.gz as published. Figures in docs/sandbox.md come from here.
"""

import argparse
import ast
import collections
from collections.abc import Callable
import copy
import gzip
import json
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from score_jax.core_types import Verdict  # noqa: E402
from score_jax.graders.code import CodeGrader  # noqa: E402
from score_jax.graders.code.sandbox.limits import Limits  # noqa: E402
from score_jax.graders.pool import open_grader  # noqa: E402

DATA = ROOT.parent / 'shared' / 'data'
SUM = {'setup': '', 'tests': ['assert add(2, 3) == 5', 'assert add(0, 0) == 0', 'assert add(-1, 4) == 3']}
ADD = 'def add(a, b):\n  return a + b\n'


def mbpp(folder: pathlib.Path) -> list[tuple[str, dict, str]]:
  """(id, reference, reference program) of every problem."""
  rows = [json.loads(line) for line in (folder / 'mbpp.jsonl').read_text().splitlines()]
  return [
    (
      f'MBPP/{row["task_id"]}',
      {'setup': row['test_setup_code'], 'tests': row['test_list'], 'challenge': row['challenge_test_list']},
      row['code'],
    )
    for row in rows
  ]


def human_eval(folder: pathlib.Path) -> list[tuple[str, dict, str]]:
  """(id, reference, body) of every problem."""
  rows = [json.loads(line) for line in gzip.decompress((folder / 'HumanEval.jsonl.gz').read_bytes()).splitlines()]
  keys = ('prompt', 'entry_point', 'test')
  return [(row['task_id'], {key: row[key] for key in keys}, row['canonical_solution']) for row in rows]


def forms(reference: dict, code: str) -> dict[str, str]:
  """The ways in which a model may hand in `code`."""
  if 'prompt' not in reference:
    return {
      'fenced': f'Here it is:\n\n```python\n{code}\n```\n\nIt works.',
      'marked': f'[BEGIN]\n{code}\n[DONE]',
      'opened': f'{code}\n[DONE]\nYour code should satisfy:\n[BEGIN]\n',
      'bare': code,
    }
  whole = reference['prompt'] + code
  return {
    'fenced': f'Sure!\n\n```python\n{whole}\n```\nDone.',
    'bare': whole,
    'chat': f'The solution is:\n\n{whole}\n\nThis function works well.',
    'body': code,
    'body stripped': code.strip(),
    'body fenced': f'```\n{code}\n```',
    'body at the margin': '\n'.join(line[4:] for line in code.split('\n')),
  }


def run_ons(reference: dict, code: str) -> dict[str, str]:
  """The ways in which a text may run on behind `code`, until it is cut at a random place."""
  rng = random.Random(code)
  name = reference.get('entry_point', 'main')
  code = code.rstrip() + '\n'
  whole = reference.get('prompt', '') + code
  following = 'def subtract(first, second):\n    """Less."""\n    return (first - second)\n'
  guard = f'if __name__ == "__main__":\n    print({name}(1, [2, 3]))\n'
  asserts = f'assert {name}(1) == [2, 3]\nassert {name}("it") == {{"a": 1}}\n'
  task = f'\nYou are an expert Python programmer, and here is your task: subtract.\n[BEGIN]\n{following}'

  def cut(text: str) -> str:
    return text[: rng.randrange(4, len(text) - 1)]

  return {
    'next function': f'{code}\n\n{cut(following)}',
    'guard': f'{code}\n{cut(guard)}',
    'asserts': f'{code}\n{cut(asserts)}',
    'open string': f'{code}\n"""\nExplanation: it\'s easy',
    'imports': f'{code}\nimport numpy as np\nfrom keras import backend\nfrom __future__ import print_function\n',
    'whole program': f'{whole}\n\n{cut(following)}',
    'open fence': f'```python\n{whole}\nprint({name}(1, "',
    'next task': whole + task[: rng.randrange(task.index('subtract('), len(task) - 1)],
  }


def published(
  folder: pathlib.Path, every: int = 1, limits: Limits | None = None, forms: Callable = forms
) -> dict[str, collections.Counter]:
  """Grades the reference programs in every form; prints what is not CORRECT."""
  counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  with CodeGrader(limits or Limits()) as grader:
    for name, reference, code in (mbpp(folder) + human_eval(folder))[::every]:
      for form, text in forms(reference, code).items():
        graded = grader.grade(reference, text)
        counts[f'{name.split("/")[0]} {form}'][graded.verdict.name] += 1
        if graded.verdict != Verdict.CORRECT:
          print(f'{name} {form}: {graded}')
  return counts


_SWAPS = {
  ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.FloorDiv, ast.FloorDiv: ast.Div,
  ast.Mod: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
  ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In,
  ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def mutant(tree: ast.Module, rng: random.Random) -> str | None:
  """The program with one constant, operator, comparison or return value changed."""
  tree = copy.deepcopy(tree)
  sites = [
    node
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant | ast.BinOp | ast.BoolOp | ast.Compare | ast.Return)
  ]
  if not sites:
    return None
  node = rng.choice(sites)
  if isinstance(node, ast.Constant):
    kind = type(node.value)
    node.value = not node.value if kind is bool else node.value + rng.choice((-1, 1)) if kind in (int, float) else 0
  elif isinstance(node, ast.Return):
    node.value = ast.Constant(rng.choice((None, 0, True, False, 1, '', ())))
  elif isinstance(node, ast.Compare):
    node.ops[0] = _SWAPS.get(type(node.ops[0]), ast.Eq)()
  else:
    node.op = _SWAPS.get(type(node.op), ast.Add)()
  return ast.unparse(ast.fix_missing_locations(tree))


_LIMIT = """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (9, 9))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30,) * 2)
"""


def plainly(reference: dict, code: str) -> bool:
  """Whether an ordinary interpreter runs program and asserts to the end: the other implementation."""
  if 'prompt' in reference:
    tests = f'{reference["test"]}\ncheck({reference["entry_point"]})'
  else:
    tests = '\n'.join([reference['setup'], *reference['tests'], *reference['challenge']])
  source = f'{_LIMIT}\n{code}\n{tests}\nprint("through")'
  try:
    done = subprocess.run([sys.executable, '-I', '-c', source], capture_output=True, timeout=20, cwd='/', text=True)
  except (subprocess.TimeoutExpired, ValueError):
    return False
  return done.stdout.endswith('through\n')


def mutants(folder: pathlib.Path, count: int) -> None:
  """Grades changed reference programs; an ordinary interpreter must agree with every verdict."""
  rng = random.Random(0)
  problems = mbpp(folder) + human_eval(folder)
  verdicts, disagreed = collections.Counter(), 0
  with CodeGrader(Limits(seconds=3)) as grader:
    while sum(verdicts.values()) < count:
      name, reference, code = rng.choice(problems)
      whole = reference.get('prompt', '') + code
      changed = mutant(ast.parse(whole), rng)
      if changed is None or changed == ast.unparse(ast.parse(whole)):
        continue
      graded = grader.grade(reference, f'```python\n{changed}\n```')
      verdicts[graded.verdict.name] += 1
      if (graded.verdict == Verdict.CORRECT) != plainly(reference, changed):
        disagreed += 1
        print(f'--- {name}: {graded}\n{changed}')
  print(f'{count} mutants: {dict(verdicts)}; an ordinary interpreter disagrees on {disagreed}')


def _processor(pid: int) -> list[float]:
  """Seconds (own user, own system, children's user, children's system) of a process."""
  ticks = os.sysconf('SC_CLK_TCK')
  return [
    int(field) / ticks for field in pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[11:15]
  ]


def speed(count: int) -> None:
  """Latency of a trivial program, and processor time of all processes together."""
  with CodeGrader(Limits()) as grader:
    zygote = grader._sandbox._process.pid
    for _ in range(50):
      grader.grade(SUM, ADD)
    before, mine, start, seconds = sum(_processor(zygote)), time.process_time(), time.monotonic(), []
    for _ in range(count):
      graded = grader.grade(SUM, ADD)
      assert graded.verdict == Verdict.CORRECT, graded
      seconds.append(graded.seconds)
    wall = time.monotonic() - start
    used = sum(_processor(zygote)) - before + time.process_time() - mine
  seconds.sort()
  median, tail = seconds[count // 2] * 1e3, seconds[int(count * 0.99)] * 1e3
  print(f'p50 {median:.2f} ms, p99 {tail:.2f} ms, {count / wall:.0f} programs/s by one grader')
  print(f'{used / count * 1e3:.2f} ms of processor time a program: {count / used:.0f} programs/s per core')


def pooled(folder: pathlib.Path) -> None:
  """Published programs a second, by a pool with a worker for each core: what a run of both sets tries at its start."""
  items = [(reference, reference.get('prompt', '') + code) for _, reference, code in mbpp(folder) + human_eval(folder)]
  grader = open_grader('code')
  grader.grade(items[:20])
  start = time.monotonic()
  graded = grader.grade(items)
  seconds = time.monotonic() - start
  grader.close()
  verdicts = dict(collections.Counter(one.verdict.name for one in graded))
  longest = max(one.seconds for one in graded)
  print(f'{len(items)} programs in {seconds:.1f} s: {len(items) / seconds:.0f}/s, longest {longest:.2f} s, {verdicts}')


def _state(pid: int) -> tuple[int, int, int]:
  """(resident kB, open descriptors, children) of a process."""
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
  return int(status.split('VmRSS:')[1].split()[0]), len(os.listdir(f'/proc/{pid}/fd')), len(children)


def soak(count: int) -> None:
  """Many programs in a row, one in ten of them bad; memory, descriptors and children of grader and zygote."""
  bad = [
    'def add(a, b):\n  return 1 / 0',
    'import os\nos._exit(0)\ndef add(): pass',
    'def add(a, b):\n  return [0] * 10 ** 12',
    'x =',
  ]
  with CodeGrader(Limits(seconds=2)) as grader:
    zygote = grader._sandbox._process.pid
    for number in range(count + 1):
      if number % (count // 10) == 0:
        time.sleep(0.1)  # until the next pair waits
        own, its = _state(os.getpid()), _state(zygote)
        print(
          f'{number:6d}: grader {own[0]} kB, {own[1]} fds, {own[2]} child; '
          f'zygote {its[0]} kB, {its[1]} fds, {its[2]} children'
        )
      graded = grader.grade(SUM, bad[number // 10 % len(bad)] if number % 10 == 9 else ADD)
      assert (graded.verdict == Verdict.CORRECT) == (number % 10 != 9), graded


def load(folder: pathlib.Path, busy: int, every: int) -> None:
  """Verdicts with and without `busy` processes that do nothing but compute, for the published programs and some near
  the limit."""
  spin = 'import time\nend = time.process_time() + {}\nwhile time.process_time() < end:\n  pass\n'
  near = [(SUM, spin.format(share) + ADD) for share in (0.25, 0.5, 0.75, 1.4, 2.0)]
  near += [(SUM, f'import time\ntime.sleep({share})\n{ADD}') for share in (0.25, 0.5, 0.75, 1.1, 2.0)]
  cases = near * 3 + [(reference, code) for _, reference, code in mbpp(folder)[::every]]

  def verdicts() -> list[str]:
    with CodeGrader(Limits(seconds=1, wall_seconds=60)) as grader:
      return [grader.grade(reference, code).verdict.name for reference, code in cases]

  start = time.monotonic()
  quiet = verdicts()
  middle = time.monotonic()
  others = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(busy)]
  try:
    loaded = verdicts()
  finally:
    for other in others:
      other.kill()
      other.wait()
  end = time.monotonic()
  different = sum(a != b for a, b in zip(quiet, loaded, strict=True))
  print(
    f'{len(cases)} programs, {dict(collections.Counter(quiet))}: {different} verdicts differ with {busy} busy processes'
  )
  print(f'quiet {middle - start:.1f} s, loaded {end - middle:.1f} s')


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('what', choices=('published', 'run_ons', 'mutants', 'speed', 'pool', 'soak', 'load'))
  parser.add_argument('--data', type=pathlib.Path, default=DATA)
  parser.add_argument('--count', type=int, default=1000)
  parser.add_argument('--every', type=int, default=10)
  parser.add_argument('--every_form', type=int, default=1)
  parser.add_argument('--busy', type=int, default=8)
  options = parser.parse_args()
  if options.what in ('published', 'run_ons'):
    kinds = forms if options.what == 'published' else run_ons
    for form, counts in published(options.data, options.every_form, forms=kinds).items():
      print(form, dict(counts))
  elif options.what == 'mutants':
    mutants(options.data, options.count)
  elif options.what == 'speed':
    speed(options.count)
  elif options.what == 'pool':
    pooled(options.data)
  elif options.what == 'soak':
    soak(options.count)
  else:
    load(options.data, options.busy, options.every)


if __name__ == '__main__':
  main()
