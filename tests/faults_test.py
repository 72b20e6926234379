"""Signals, hangs, restarts, secrets and locks, each in small processes without jax."""

import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from score_jax import errors
from score_jax.faults import lock, secrets
from score_jax.storage.run_folder import RunFolder

ROOT = pathlib.Path(__file__).parent.parent
CANARY = 'canary-3f9a-zebra'


def python(code: str, *arguments, **more) -> subprocess.Popen:
  """A process with the package at hand; it says `ready` when it can be disturbed."""
  return subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more,
  )  # fmt: skip


def when_ready(process: subprocess.Popen, number: int) -> tuple[int, str, float]:
  """Sends the signal; exit code, standard error, and the seconds it took."""
  assert process.stdout.readline() == 'ready\n', process.communicate()[1]
  process.send_signal(number)
  began = time.monotonic()
  _, printed = process.communicate(timeout=60)
  return process.returncode, printed, time.monotonic() - began


# Signals.

AT_WORK = """
import sys, time
from score_jax.faults import signals
signals.install()
def work():
  print('ready', flush=True)
  {work}
{around}
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_outside_the_loop_ends_the_process_at_once_with_75(number):
  code = AT_WORK.format(work='time.sleep(60)', around='try: work()\nexcept Exception: print("caught")')
  ended, printed, took = when_ready(python(code), number)
  assert ended == 75 and took < 20 and signal.Signals(number).name in printed


def test_a_deferred_signal_lets_the_step_end(tmp_path):
  code = AT_WORK.format(
    work='time.sleep(1); open(sys.argv[1], "w").write(str(signals.requested())); sys.exit(75)',
    around='with signals.deferred(20, lambda: None): work()',
  )
  ended, printed, _ = when_ready(python(code, tmp_path / 'end'), signal.SIGTERM)
  assert (ended, (tmp_path / 'end').read_text()) == (75, 'True')
  assert 'stopping after this step' in printed


def test_what_outlasts_the_grace_is_saved_by_a_thread_and_ended(tmp_path):
  """The main thread is in C code, as it is while XLA compiles: no handler of Python's can run there."""
  code = AT_WORK.format(
    work='__import__("hashlib").pbkdf2_hmac("sha256", b"", b"", 10**9)',
    around='with signals.deferred(0.5, lambda: open(sys.argv[1], "w").write("saved")): work()',
  )
  ended, _, took = when_ready(python(code, tmp_path / 'end'), signal.SIGTERM)
  assert (ended, (tmp_path / 'end').read_text()) == (75, 'saved')
  assert took < 20


def test_the_second_ctrl_c_does_not_wait():
  code = AT_WORK.format(work='time.sleep(60); time.sleep(60)', around='with signals.deferred(50, lambda: None): work()')
  process = python(code)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  time.sleep(0.5)
  process.send_signal(signal.SIGINT)
  assert process.wait(timeout=20) == 75
  process.communicate()


def test_a_signal_after_the_work_does_not_change_the_exit_code():
  """Python's own end takes a while, in which it no longer has handlers."""
  code = """
    import os, sys, time
    from score_jax.faults import signals
    signals.install()
    class Last:
      def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b'ready\\n')
        sleep(1)
    last = Last()
    signals.over()
    sys.exit(65)
    """
  ended, _, _ = when_ready(python(code), signal.SIGTERM)
  assert ended == 65


# Hangs.

HANGING = """
import contextlib, re, sys, time
from score_jax.faults import watchdog
with watchdog.watching(sys.argv[1], watchdog.Patience(first=30, floor=1.0, factor=2.0)):
  for i in range(3):
    with watchdog.phase('sample'):
      time.sleep(0.05)
  with {where}:
    {hang}
"""


@pytest.mark.parametrize(
  ('where', 'hang', 'code'),
  [
    ('watchdog.phase("sample")', 'time.sleep(1000)', 75),
    ('watchdog.phase("sample")', 're.match("(a+)+$", 50 * "a" + "b")', -signal.SIGKILL),
    ('contextlib.nullcontext()', 'time.sleep(1000)', 75),
  ],
  ids=['asleep', 'with the lock', 'between phases'],
)
def test_a_stuck_process_is_ended_and_its_stacks_are_kept(tmp_path, where, hang, code):
  began = time.monotonic()
  process = python(HANGING.format(where=where, hang=hang), tmp_path)
  _, printed = process.communicate(timeout=60)
  assert process.returncode == code and time.monotonic() - began < 30
  (stacks,) = [path.read_text() for path in tmp_path.glob('stuck-*.txt')]
  assert 'File "<string>", line 9 in <module>' in stacks
  assert 'stuck' in printed


def test_a_phase_may_take_as_long_as_it_is_worth(tmp_path):
  """Slow at first, then as slow as that at times; and parts of a phase have a deadline each."""
  code = """
    import sys, time
    from score_jax.faults import watchdog
    with watchdog.watching(sys.argv[1], watchdog.Patience(first=20, floor=0.6, factor=3.0)):
      for seconds in (1.0, 0.1, 1.5):
        with watchdog.phase('update'):
          time.sleep(seconds)
      with watchdog.phase('save'):
        time.sleep(0.1)
      with watchdog.phase('evaluate'):
        for _ in range(4):
          watchdog.beat()
          time.sleep(0.5)
      time.sleep(0.3)
    """
  process = python(code, tmp_path)
  assert process.wait(timeout=60) == 0, process.communicate()[1]
  process.communicate()


# Secrets.


@pytest.mark.parametrize(
  'secret',
  [
    'hf_AbCdEfGhIjKlMnOpQrStUvWxYz012345',
    'ya29.a0AfH6SMBx-1234567890_abcdefghij',
    'AIzaSyA1234567890abcdefghijklmnopqrstuv',
    'wandb_api_key=0123456789abcdef0123456789abcdef01234567',
    'upload_id=ABPtcPq-Xy_0123',
    "WANDB_API_KEY: '0123456789abcdef0123456789abcdef01234567",
    '-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nabc=\n-----END RSA PRIVATE KEY-----',
    '-----BEGIN PRIVATE KEY-----MIIEow',
    'name:pass1word@',
  ],
)
def test_what_looks_like_a_key_is_hidden(secret):
  text = f'https://{secret}host/x' if '@' in secret else f'before {secret} after'
  body = secret.rpartition('=')[2] if '=' in secret[:20] else secret
  assert body not in secrets.redacted(text)
  assert secrets.HIDDEN in secrets.redacted(text)


def test_what_does_not_is_left():
  for text in (
    'model at revision 0123456789abcdef0123456789abcdef01234567',
    'sha256 ' + 64 * 'a',
    'https://huggingface.co/org/model',
    'the key to the tokenizer is token 12',
  ):
    assert secrets.redacted(text) == text


def test_values_of_secret_variables_are_hidden_and_others_are_not(monkeypatch, tmp_path):
  for name in ('HF_TOKEN', 'MY_API_KEY', 'DB_PASSWORD', 'AWS_SECRET_ACCESS_KEY', 'GITHUB_PAT', 'githubtoken'):
    monkeypatch.setenv(name, f'{CANARY}-{name}')
    assert secrets.redacted(f'a{CANARY}-{name}b') == f'a{secrets.HIDDEN}b'
  for name, value in (('KEYBOARD', 'dvorak-x'), ('API_KEY', 'short'), ('GOOGLE_CREDENTIALS', str(tmp_path))):
    monkeypatch.setenv(name, value)
    assert secrets.redacted(value) == value


def test_files_of_a_run_hold_no_secret(monkeypatch, tmp_path):
  monkeypatch.setenv('HF_TOKEN', CANARY)
  folder = RunFolder(tmp_path / 'run')
  identity = dict(task=dict(system=f'say {CANARY}'), seed=1)
  folder.claim(dict(model=dict(path=f'https://x?token={CANARY}')), identity)
  folder.claim(dict(model=dict(path='y')), identity)  # the same run, though its own file has no secret
  folder.add_metrics(dict(step=1, why=CANARY))
  folder.write_eval({CANARY: [CANARY]})
  for path in folder.path.iterdir():
    assert CANARY not in path.read_text(), path
  assert json.loads(folder.metrics.read_text()) == dict(step=1, why=secrets.HIDDEN)


def test_logs_and_tracebacks_of_a_command_hold_no_secret():
  code = f"""
    import logging, os, sys, threading
    os.environ['HF_TOKEN'] = '{CANARY}'
    from score_jax import cli
    from absl import logging as absl_logging
    absl_logging.use_absl_handler()
    cli.secrets.guard()
    def fail(where):
      raise ValueError(where + os.environ['HF_TOKEN'])
    absl_logging.error('absl %s', os.environ['HF_TOKEN'])
    logging.getLogger('library').error('python %s', os.environ['HF_TOKEN'])
    try:
      fail('caught ')
    except ValueError:
      absl_logging.exception('with its trace')
    thread = threading.Thread(target=fail, args=['thread '])
    thread.start()
    thread.join()
    fail('main ')
    """
  process = python(code)
  _, printed = process.communicate()
  assert process.returncode == 1 and CANARY not in printed
  for word in ('absl ', 'python ', 'caught ', 'thread ', 'main '):
    assert word + secrets.HIDDEN in printed


COMMANDS = {
  'main': ['--config=configs/quickstart.py', f'--config.model.path={CANARY}', '--workdir={tmp}/run'],
  'evaluate': ['--config=configs/quickstart.py', f'--output={CANARY}/x/y'],
  'export': [f'--run={CANARY}', '--out=x'],
  'inspect': [CANARY],
  'grade': ['--task=gsm8k', f'--input={CANARY}', '--output={tmp}/out.jsonl'],
}


@pytest.mark.parametrize('name', COMMANDS)
def test_errors_of_every_command_hold_no_secret(name, tmp_path):
  if name == 'grade' and not (ROOT / 'score_jax/graders/math').exists():
    pytest.skip('its verifier is not here')
  command = [sys.executable, '-m', f'score_jax.{name}', *(flag.format(tmp=tmp_path) for flag in COMMANDS[name])]
  done = subprocess.run(
    command, cwd=ROOT, env=os.environ | dict(HF_TOKEN=CANARY), capture_output=True, text=True, check=False
  )
  assert done.returncode in (65, 78), done.stderr
  assert CANARY not in done.stdout + done.stderr
  assert secrets.HIDDEN in done.stdout + done.stderr


# Locks.

HOLD = """
import sys, time
from score_jax.faults import lock
import pathlib
lock.take(pathlib.Path(sys.argv[1]))
print('ready', flush=True)
time.sleep(60)
"""


def test_the_second_process_in_a_folder_is_refused_until_the_first_is_dead(tmp_path):
  process = python(HOLD, tmp_path)
  assert process.stdout.readline() == 'ready\n', process.communicate()[1]
  with pytest.raises(errors.ConfigError, match=f'in use by process {process.pid} on'):
    RunFolder(tmp_path).claim({}, {})
  assert [path.name for path in tmp_path.iterdir()] == [lock.NAME]
  process.kill()
  process.communicate()
  RunFolder(tmp_path).claim({}, {})
  RunFolder(tmp_path).claim({}, {})  # its own


@pytest.mark.parametrize('alive', [True, False])
def test_the_lock_of_another_machine_counts_while_it_changes(tmp_path, monkeypatch, alive):
  """flock of another machine is not seen; what it writes is."""
  monkeypatch.setattr(lock, '_PATIENCE', 1.0)
  code = """
    import json, os, sys, time
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    for beat in range(int(sys.argv[2])):
      os.pwrite(file, json.dumps(dict(host='elsewhere', boot='x', pid=1, beat=beat)).ljust(99).encode(), 0)
      if beat == 0:
        print('ready', flush=True)
      time.sleep(0.1)
    """
  process = python(code, tmp_path / lock.NAME, 100 if alive else 1)
  assert process.stdout.readline() == 'ready\n'
  if alive:
    with pytest.raises(errors.ConfigError, match='in use by process 1 on elsewhere'):
      lock.take(tmp_path)
  else:
    process.wait()
    lock.take(tmp_path)
  process.kill()
  process.communicate()


def test_metrics_that_a_full_disk_does_not_take_are_written_later_and_whole(tmp_path, monkeypatch):
  folder = RunFolder(tmp_path)
  folder.add_metrics(dict(step=1))
  real = pathlib.Path.open

  def full(path, mode='r', **more):
    file = real(path, mode, **more)
    if 'a' not in mode:
      return file

    class HalfALine:
      def __enter__(self):
        return self

      def __exit__(self, *error):
        file.close()

      def write(self, data):
        file.write(data[:5])
        raise OSError(28, 'No space left on device')

      tell, truncate = file.tell, file.truncate

    return HalfALine()

  monkeypatch.setattr(pathlib.Path, 'open', full)
  with pytest.MonkeyPatch.context():
    logging.disable(logging.WARNING)
    folder.add_metrics(dict(step=2))
    logging.disable(logging.NOTSET)
  with pytest.raises(OSError):
    folder.sync_metrics()
  monkeypatch.undo()
  assert folder.metrics.read_text() == '{"step": 1}\n'
  folder.add_metrics(dict(step=3))
  folder.sync_metrics()
  assert [json.loads(line)['step'] for line in folder.metrics.read_text().splitlines()] == [1, 2, 3]
