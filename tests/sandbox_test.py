"""The sandbox: hostile programs, the layers one by one, and what is left afterwards."""

import errno
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time

import hostile_run
import pytest

from score_jax.core_types import Verdict
from score_jax.errors import ConfigError, SandboxError
from score_jax.graders import code, messages
from score_jax.graders.code import CodeGrader
from score_jax.graders.code.sandbox import client, layers, seccomp
from score_jax.graders.code.sandbox.limits import Limits

TESTS = pathlib.Path(__file__).parent
NOBODY = 65534
SUM = {'setup': '', 'tests': ['assert add(2, 3) == 5']}
ADD = 'def add(a, b):\n  return a + b\n'
FULL, ALONE = ('landlock', 'seccomp'), ('seccomp',)
SOON = Limits(seconds=0.5, wall_seconds=20)


@pytest.fixture(scope='module')
def grader():
  with CodeGrader(SOON) as grader:
    yield grader


def interpreter_for(uid: int | None) -> str:
  """Returns an interpreter that the user may run; skips if there is none."""
  for python in (sys.executable, '/usr/bin/python3', shutil.which('python3', path='/usr/local/bin:/usr/bin') or ''):
    check = 'import os, sys; sys.exit(sys.version_info < (3, 11) or not os.access(sys.argv[1], os.R_OK))'
    try:
      done = subprocess.run([python, '-c', check, hostile_run.__file__], user=uid, group=uid, cwd='/', check=False)
    except OSError:
      continue
    if not done.returncode:
      return python
  pytest.skip('no Python >= 3.11 that an ordinary user may run, or these files are out of their reach')


@pytest.mark.parametrize(
  'who, use',
  [
    ('this user', FULL),
    pytest.param('this user', ALONE, marks=pytest.mark.slow),
    pytest.param('nobody', FULL, marks=pytest.mark.slow),
    pytest.param('nobody', ALONE, marks=pytest.mark.slow),
  ],
  ids=lambda value: value if isinstance(value, str) else '+'.join(value),
)
def test_hostile_programs_neither_pass_nor_escape(who, use):
  if who == 'nobody' and os.getuid():
    pytest.skip('only root can become another user')
  uid = NOBODY if who == 'nobody' else None
  command = [interpreter_for(uid), '-B', hostile_run.__file__, ','.join(use), '0.3', '3']
  groups = [] if uid else None
  done = subprocess.run(command, user=uid, group=uid, extra_groups=groups, cwd='/', check=True, stdout=subprocess.PIPE)
  result = json.loads(done.stdout)
  assert [row for row in result['rows'] if row[1] not in row[2]] == []
  assert len(result['rows']) > 200
  assert result['left'] == {}


def test_without_layers_nothing_runs():
  with pytest.raises(SandboxError, match='system call filter: MISSING.*unsafe') as caught:
    CodeGrader(SOON, use=())
  assert caught.value.exit_code == 78


def test_landlock_alone_is_not_enough():
  with pytest.raises(SandboxError, match='MISSING'):
    CodeGrader(SOON, use=('landlock',))


def test_unsafe_runs_without_layers():
  """And shows that the secret is within reach then: the hostile programs do attack something."""
  with CodeGrader(SOON, unsafe=True, use=()) as grader:
    assert grader.grade(SUM, ADD).verdict == Verdict.CORRECT
    assert grader.grade(SUM, 'import os\ndef add(a, b):\n  os.stat("/")\n  return a + b').verdict == Verdict.CORRECT


def test_landlock_holds_alone():
  held = code.layers()
  if not held.landlock:
    pytest.skip('this kernel has no Landlock')
  alone = client.Sandbox(SOON, ('landlock',))
  alone.close()
  assert alone.layers == layers.Layers(False, held.landlock, held.other_user, held.queue_time)


def test_limits_are_checked():
  with pytest.raises(ConfigError, match='memory_mb'):
    Limits(memory_mb=0)
  with pytest.raises(ConfigError, match='wall_seconds'):
    Limits(seconds=5, wall_seconds=6)


# The filter, for both machines: the classic BPF program is run here, by an interpreter of a dozen lines.

ARCH = {'x86_64': 0xC000003E, 'aarch64': 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000


def refused(number: int = errno.EPERM) -> int:
  return 0x00050000 | number


def filtered(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
  """Returns what the filter answers to a call."""
  arguments += (0,) * (6 - len(arguments))
  data = struct.pack('<IIQ6Q', number, arch or ARCH[machine], 0, *arguments)
  lines, at, value = seccomp.assemble(machine), 0, 0
  while True:
    operation, yes, no, k = lines[at]
    at += 1
    match operation:
      case 0x06:
        return k
      case 0x20:
        value = struct.unpack_from('<I', data, k)[0]
      case 0x54:
        value &= k
      case _:
        at += yes if {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[operation] else no


@pytest.mark.parametrize(
  'machine, number, arguments, answer',
  [
    ('x86_64', 0, (), ALLOW),  # read
    ('x86_64', 228, (), ALLOW),  # clock_gettime
    ('x86_64', 2, (), refused()),  # open
    ('x86_64', 257, (), refused()),  # openat
    ('x86_64', 41, (), refused()),  # socket
    ('x86_64', 56, (), refused()),  # clone
    ('x86_64', 59, (), refused()),  # execve
    ('x86_64', 62, (), refused()),  # kill
    ('x86_64', 262, (), refused()),  # newfstatat
    ('x86_64', 435, (), refused(errno.ENOSYS)),  # clone3
    ('x86_64', 0x40000000, (), refused()),  # x32's read
    ('x86_64', 9, (0, 4096, 3), ALLOW),  # mmap, readable and writable
    ('x86_64', 9, (0, 4096, 7), refused()),  # and executable
    ('x86_64', 10, (0, 4096, 4), refused()),  # mprotect, executable
    ('x86_64', 202, (0, 128), ALLOW),  # futex, private wait
    ('x86_64', 202, (0, 6), refused()),  # lock with priority inheritance
    ('x86_64', 202, (0, 9 | 128 | 256), ALLOW),  # wait with a bit set, private, by the wall clock
    ('aarch64', 63, (), ALLOW),  # read
    ('aarch64', 113, (), ALLOW),  # clock_gettime
    ('aarch64', 56, (), refused()),  # openat
    ('aarch64', 198, (), refused()),  # socket
    ('aarch64', 220, (), refused()),  # clone
    ('aarch64', 221, (), refused()),  # execve
    ('aarch64', 129, (), refused()),  # kill
    ('aarch64', 435, (), refused(errno.ENOSYS)),
    ('aarch64', 222, (0, 4096, 3), ALLOW),  # mmap
    ('aarch64', 222, (0, 4096, 7), refused()),
    ('aarch64', 226, (0, 4096, 5), refused()),  # mprotect
    ('aarch64', 98, (0, 1), ALLOW),  # futex wake
  ],
)
def test_the_filter_allows_little(machine, number, arguments, answer):
  assert filtered(machine, number, *arguments) == answer
  assert filtered(machine, number, *arguments, arch=0x40000003) == KILL  # i386


# Time, failures, and what is left.


def test_sleeping_and_computing_both_take_time(grader):
  for body in ('import time\n  time.sleep(9)', 'while True: pass'):
    graded = grader.grade(SUM, f'def add(a, b):\n  {body}')
    assert graded.verdict == Verdict.TIMEOUT
    assert graded.seconds >= SOON.seconds


def test_waiting_for_a_processor_is_not_the_programs_time(monkeypatch):
  monkeypatch.setattr(layers, 'waited', lambda pid: 0.5)
  assert client._net_seconds((1, 2), 3.0) == 2.0


def test_without_queue_time_processor_time_counts(monkeypatch, grader):
  monkeypatch.setattr(layers, 'waited', lambda pid: None)
  sleeping = grader.grade(SUM, 'import time\ndef add(a, b):\n  time.sleep(1)\n  return a + b')
  assert sleeping.verdict == Verdict.CORRECT  # 4 times the limit, where sleeping and waiting look the same
  assert grader.grade(SUM, 'import time\ndef add(a, b):\n  time.sleep(9)').verdict == Verdict.TIMEOUT
  computing = grader.grade(SUM, 'def add(a, b):\n  while True: pass')
  assert computing.verdict == Verdict.TIMEOUT


def test_a_host_that_never_runs_the_program_is_an_error(monkeypatch):
  monkeypatch.setattr(client, '_net_seconds', lambda pair, wall: 0.0)
  with CodeGrader(Limits(seconds=0.2, wall_seconds=0.5)) as grader:
    graded = grader.grade(SUM, 'def add(a, b):\n  while True: pass')
  assert graded.verdict == Verdict.ERROR
  assert graded.seconds >= 1.0  # it was tried twice


def test_a_dead_zygote_is_replaced(grader):
  os.kill(grader._sandbox._process.pid, signal.SIGKILL)
  assert grader.grade(SUM, ADD).verdict == Verdict.CORRECT


def test_no_program_outlives_its_zygote(grader):
  sleeper = threading.Thread(target=grader.grade, args=(SUM, 'import time\ndef add(a, b):\n  time.sleep(99)'))
  sleeper.start()
  time.sleep(0.2)
  zygote = grader._sandbox._process.pid
  assert len(hostile_run.processes_of(os.getpid())) >= 3
  alive = [pid for pid in hostile_run.processes_of(os.getpid()) if parent_of(pid) == zygote]
  assert os.getuid() or all(uid_of(pid) not in (0, NOBODY) for pid in alive)
  os.kill(zygote, signal.SIGKILL)
  time.sleep(0.2)
  assert len(alive) == 2
  assert not set(alive) & set(hostile_run.processes_of(os.getpid()))
  sleeper.join()


def parent_of(pid: str) -> int:
  return int(pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])


def uid_of(pid: str) -> int:
  return int(pathlib.Path(f'/proc/{pid}/status').read_text().split('Uid:')[1].split()[0])


@pytest.mark.slow
def test_the_kernel_ends_what_the_clock_does_not(monkeypatch):
  monkeypatch.setattr(client, '_net_seconds', lambda pair, wall: 0.0)
  stubborn = 'import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef add(a, b):\n  while True: pass'
  with CodeGrader(Limits(seconds=0.2, wall_seconds=30)) as grader:
    graded = grader.grade(SUM, stubborn)
  assert (graded.verdict, 'processor time' in graded.answer) == (Verdict.TIMEOUT, True)


def test_a_slow_client_loses_nothing(monkeypatch):
  receive = messages.receive
  monkeypatch.setattr(messages, 'receive', lambda *given, **named: time.sleep(0.4) or receive(*given, **named))
  with CodeGrader(SOON) as grader:
    assert grader.grade(SUM, ADD).verdict == Verdict.CORRECT
    assert grader.grade(SUM, ADD).verdict == Verdict.CORRECT


def test_a_sandbox_that_can_not_start_again_is_an_error(monkeypatch):
  with CodeGrader(SOON) as grader:
    monkeypatch.setattr(grader, '_use', ())
    os.kill(grader._sandbox._process.pid, signal.SIGKILL)
    assert grader.grade(SUM, ADD).verdict == Verdict.ERROR
    monkeypatch.undo()
    assert grader.grade(SUM, ADD).verdict == Verdict.CORRECT


def test_two_failures_are_an_error(monkeypatch, grader):
  def fail(*_):
    raise OSError('no more')

  with monkeypatch.context() as patch:
    patch.setattr(client.Sandbox, '_run', fail)
    graded = grader.grade(SUM, ADD)
  assert (graded.verdict, 'no more' in graded.answer) == (Verdict.ERROR, True)
  assert grader.grade(SUM, ADD).verdict == Verdict.CORRECT


def test_one_program_leaves_nothing_to_the_next(grader):
  spoil = 'import builtins, random\nbuiltins.sum = None\nrandom.seed = None\nbuiltins.seen = 1\ndef add(a, b): return 5'
  assert grader.grade(SUM, spoil).verdict == Verdict.CORRECT
  look = 'import builtins, random\ndef add(a, b):\n  random.seed(1)\n  return sum((a, b)) + hasattr(builtins, "seen")'
  assert grader.grade(SUM, look).verdict == Verdict.CORRECT


def test_chance_and_hashes_are_the_same_every_time(grader):
  draw = 'import random\ndef add(a, b):\n  return [random.random(), hash("a"), list({"a", "b", "c", "d"})]'
  seen = {grader.grade(SUM, draw.replace('return', 'raise ValueError(') + ')').answer for _ in range(3)}
  with CodeGrader(SOON) as another:
    seen.add(another.grade(SUM, draw.replace('return', 'raise ValueError(') + ')').answer)
  assert len(seen) == 1
  assert '[0.' in seen.pop()


def test_descriptors_and_processes_stay(grader):
  def state():
    return len(os.listdir('/proc/self/fd')), len(hostile_run.processes_of(os.getpid()))

  before = state()
  for _ in range(20):
    grader.grade(SUM, ADD)
    grader.grade(SUM, 'import os\nos._exit(1)\ndef add(): pass')
  time.sleep(0.1)  # for the pair that waits for the next program
  assert state() == before


@pytest.mark.parametrize('ending', ['close', 'kill'])
def test_nothing_is_left_when_the_grader_ends(ending):
  source = (
    'import os, sys, time\nfrom score_jax.graders.code import CodeGrader, Limits\ngrader = CodeGrader(Limits())\n'
    f'assert grader.grade({SUM!r}, {ADD!r}).verdict == 1\nprint(os.getpid(), flush=True)\n'
    'grader.close() if sys.argv[1] == "close" else time.sleep(60)\nprint(flush=True)\ntime.sleep(60)'
  )
  command = [sys.executable, '-c', source, ending]
  with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=TESTS.parent, text=True) as process:
    pid = int(process.stdout.readline())
    try:
      if ending == 'close':
        process.stdout.readline()
      else:
        assert hostile_run.processes_of(pid)
        process.kill()
      deadline = time.monotonic() + 5
      while hostile_run.processes_of(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
      assert hostile_run.processes_of(pid) == []
    finally:
      process.kill()
