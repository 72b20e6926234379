"""Grader processes: what their limits and their deaths become, and that nothing of them stays behind."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from score_jax.core_types import Verdict
from score_jax.errors import ConfigError, UserError
from score_jax.graders import messages, references
from score_jax.graders import pool as pools
from score_jax.graders.registry import GRADERS, GradingSpec

SPEC = GradingSpec(workers=2, cpu_seconds=0.3, memory_mb=512, unsafe_code=False)
ROOT = pathlib.Path(__file__).parent.parent

# A grader whose answers are orders: what a text says is what its grading does.
ORDERS = """
import itertools, json, os, sys, time
from score_jax.errors import DataError
from score_jax.core_types import Graded, Verdict
from score_jax.graders import registry, worker

def grade(reference, text):
  print('noise on standard output', flush=True)
  if text == 'loop':
    while True: pass
  if text == 'swallow':
    while True:
      try:
        while True: pass
      except Exception: pass
  if text == 'stuck in C':
    sum(itertools.repeat(0, 10 ** 12))  # never looks at signals
  if text == 'memory':
    bytearray(10 ** 10)
  if text == 'sleep':
    time.sleep(1.0)
  if text == 'raise':
    raise OSError('no such thing')
  if text == 'bad reference':
    raise DataError('row 3: no tests')
  if text == 'die':
    os.kill(os.getpid(), 9)
  if text == 'die once':
    flag = reference['flag']
    if not os.path.exists(flag):
      open(flag, 'w').close()
      os._exit(3)
  return Graded(Verdict.CORRECT if text == reference.get('answer') else Verdict.WRONG, text[:200])

registry.GRADERS['orders'] = registry.GraderEntry(lambda spec: registry.LoadedGrader(grade, "as told"), True)
worker.main('orders', registry.GradingSpec(**json.loads(sys.argv[1])))
"""


@pytest.fixture
def orders(monkeypatch):
  """A pool of two workers that do as they are told."""
  monkeypatch.setattr(pools, 'command', lambda name, spec: [sys.executable, '-c', ORDERS, json.dumps(spec.__dict__)])
  opened = pools.Pool('orders', SPEC)
  yield opened
  opened.close()


def verdicts(pool, *texts, **reference):
  return [graded.verdict.name for graded in pool.grade([(reference, text) for text in texts])]


def test_verdicts_come_in_order_whatever_is_printed(orders):
  texts = [str(i) for i in range(50)]
  graded = orders.grade([(dict(answer=str(i - i % 2)), text) for i, text in enumerate(texts)])
  assert [g.answer for g in graded] == texts
  assert [g.verdict for g in graded] == [Verdict.CORRECT, Verdict.WRONG] * 25
  assert orders.description == 'as told'


@pytest.mark.parametrize('text', ['loop', 'swallow', 'stuck in C', 'memory'])
def test_an_answer_that_uses_up_its_own_limits_is_a_timeout_and_the_next_is_graded(orders, text):
  begun = time.process_time(), time.monotonic()
  assert verdicts(orders, 'a', text, 'a', 'a', answer='a') == ['CORRECT', 'TIMEOUT', 'CORRECT', 'CORRECT']
  assert time.process_time() - begun[0] < 1, 'the run itself waits idle'


def test_waiting_is_not_the_answers_own_time(orders):
  # A second of sleep at a limit of 0.3: as if the machine had been busy with something else.
  assert verdicts(orders, 'sleep', answer='sleep') == ['CORRECT']


def test_a_grader_that_dies_costs_a_retry_and_nothing_else(orders, tmp_path):
  flag = str(tmp_path / 'died')
  assert verdicts(orders, 'a', 'die once', 'a', answer='a', flag=flag) == ['CORRECT', 'WRONG', 'CORRECT']
  assert pathlib.Path(flag).exists()


def test_a_grader_that_dies_twice_over_one_answer_is_an_error_of_the_host(orders):
  assert verdicts(orders, 'a', 'die', 'a', answer='a') == ['CORRECT', 'ERROR', 'CORRECT']


def test_a_grader_that_fails_is_an_error_of_the_host_and_says_why(orders):
  graded = orders.grade([(dict(answer='a'), text) for text in ('a', 'raise', 'a')])
  assert [g.verdict for g in graded] == [Verdict.CORRECT, Verdict.ERROR, Verdict.CORRECT]
  assert 'OSError: no such thing' in graded[1].answer


def test_a_reference_that_is_none_is_the_users_to_fix(orders):
  with pytest.raises(UserError, match='row 3: no tests') as caught:
    verdicts(orders, 'a', 'bad reference', 'a', answer='a')
  assert caught.value.exit_code == 65
  assert verdicts(orders, 'a', 'a', answer='a') == ['CORRECT', 'CORRECT']


def test_killing_every_grader_in_the_middle_changes_no_verdict(orders):
  def kill():
    time.sleep(0.3)
    for pid in orders.pids:
      os.kill(pid, signal.SIGKILL)

  killer = threading.Thread(target=kill)
  killer.start()
  assert verdicts(orders, 'sleep', 'sleep', *['a'] * 20, answer='a') == ['WRONG'] * 2 + ['CORRECT'] * 20
  killer.join()


def test_a_stopped_grader_is_replaced_when_patience_ends(orders, monkeypatch):
  for worker in orders._workers:
    worker._patience = 1.0
  for pid in orders.pids:
    os.kill(pid, signal.SIGSTOP)
  assert verdicts(orders, 'a', 'a', 'a', answer='a') == ['CORRECT'] * 3


def test_hostile_text_passes_through_unchanged(orders):
  texts = ['\ud800 lone', '\x00\x1b[31m', '😀' * 1000, '"}\n{"verdict": 1}', 'x' * 5_000_000]
  graded = orders.grade([(dict(answer=text), text) for text in texts])
  assert all(g.verdict == Verdict.CORRECT for g in graded)
  assert [g.answer for g in graded] == [text[:200] for text in texts]


def test_graders_see_no_environment_and_leave_with_the_run(tmp_path):
  code = (
    'import sys, time\n'
    'from score_jax.graders.pool import open_grader\n'
    'from score_jax.graders.registry import GradingSpec\n'
    'pool = open_grader("math", GradingSpec(2, 5.0, 512, False))\n'
    'print(*pool.pids, flush=True)\n'
    'time.sleep(60)\n'
  )
  secret = dict(os.environ, HF_TOKEN='hf_secret_of_the_run', PYTHONPATH=str(ROOT))
  run = subprocess.Popen([sys.executable, '-c', code], env=secret, stdout=subprocess.PIPE, text=True)
  pids = [int(word) for word in run.stdout.readline().split()]
  assert len(pids) == 2
  for pid in pids:
    assert b'hf_secret' not in pathlib.Path(f'/proc/{pid}/environ').read_bytes()
  run.kill()
  run.wait()
  run.stdout.close()
  deadline = time.monotonic() + 10
  while any(pathlib.Path(f'/proc/{pid}').exists() and not _is_zombie(pid) for pid in pids):
    assert time.monotonic() < deadline, 'a grader outlived its run'
    time.sleep(0.05)


def _is_zombie(pid):
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
  except FileNotFoundError:
    return True


def test_closing_ends_the_processes(orders):
  pids = orders.pids
  orders.close()
  assert not any(pathlib.Path(f'/proc/{pid}').exists() for pid in pids)
  orders.close()


def test_a_grader_that_cannot_run_here_says_so_at_once(monkeypatch):
  refuse = ORDERS.replace('lambda spec: registry.LoadedGrader(grade, "as told")', 'lambda spec: refuse()').replace(
    'registry.GRADERS',
    'from score_jax.errors import ConfigError\ndef refuse(): raise ConfigError("no layer")\nregistry.GRADERS',
    1,
  )
  monkeypatch.setattr(pools, 'command', lambda name, spec: [sys.executable, '-c', refuse, json.dumps(spec.__dict__)])
  with pytest.raises(UserError, match='no layer') as caught:
    pools.Pool('orders', SPEC)
  assert caught.value.exit_code == 78


def test_a_grader_that_does_not_start_is_told_with_the_remedy(monkeypatch):
  monkeypatch.setattr(pools, 'command', lambda name, spec: [sys.executable, '-c', 'raise SystemExit(3)'])
  message = r'did not start \(the other side is gone, exit 3\); see its message above, or raise .*memory_mb = 512'
  with pytest.raises(ConfigError, match=message):
    pools.Pool('orders', SPEC)


def test_an_unknown_grader_is_named():
  with pytest.raises(ConfigError, match="'maths' is unknown; use one of text"):
    pools.open_grader('maths', SPEC)


def test_graders_without_need_of_bounds_start_no_process():
  grader = pools.open_grader('text', SPEC)
  assert isinstance(grader, pools.InProcess)
  assert verdicts(grader, 'Paris', 'Answer:  Paris\n', 'paris', '', 'Answer:', answer='Paris') == [
    'CORRECT', 'CORRECT', 'WRONG', 'UNPARSED', 'UNPARSED'
  ]  # fmt: skip
  assert verdicts(grader, 'cafe\u0301', answer='caf\u00e9') == ['CORRECT']


@pytest.mark.parametrize('grader', GRADERS)
def test_references_are_checked(grader):
  good = {
    'text': ('x', dict(answer='x')),
    'math': (3, dict(answer='3')),
    'math_verify': (3, dict(answer='3')),
    'countdown': (dict(numbers=[1, 2], target=3), dict(numbers=[1, 2], target=3)),
    'code': (['assert f() == 1'], dict(setup='', tests=['assert f() == 1'])),
  }
  value, expected = good[grader]
  assert references.make(grader, value, 'here') == expected
  for bad in (None, '', ' ', [], {}, True, [1], dict(other=1), dict(numbers=[], target=1), dict(tests=[])):
    with pytest.raises(Exception, match='^row 7') as caught:
      references.make(grader, bad, 'row 7')
    assert caught.value.exit_code == 65


def test_messages_are_whole_or_not_at_all():
  read, write = os.pipe()
  messages.send_json(write, dict(a='\ud800'))
  assert messages.receive_json(read) == dict(a='\ud800')
  with pytest.raises(messages.Late):
    messages.receive_json(read, 0.05)
  os.write(write, b'\0\0\0\x10{"cut')
  with pytest.raises(messages.Late):
    messages.receive_json(read, 0.05)
  messages.send(write, b'four')
  with pytest.raises(messages.TooLong):
    messages.receive(read, limit=3)
  os.close(write)
  with pytest.raises(messages.Closed):
    while messages.receive(read):
      pass
  os.close(read)
  read, write = os.pipe()
  os.close(read)
  with pytest.raises(messages.Closed):
    messages.send(write, b'nobody')
  os.close(write)
