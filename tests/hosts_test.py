"""Several processes train as one, notice when one is gone, and go on where they were; wrong launches are refused."""

from concurrent import futures
import contextvars
import json
import pathlib
import re
import shutil
import signal
import socket
import time
import types

import fake_gcs
import hosts_rig
import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import coordination, many_hosts
from score_jax import errors
from score_jax.parallel import hosts
from score_jax.reporting import rows

DEADLINE = 30.0  # seconds, with hosts.heartbeat_seconds = 10
KEEP_ALL = '--config.checkpoint.keep=9'
FLOATS = ('reward', 'kl', 'loss', 'gradient_norm', 'attempt_gradient_norm', 'mismatch', 'learning_rate')


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
  return hosts_rig.Rig(tmp_path_factory.mktemp('cache'), tmp_path_factory.mktemp('logs'))


@pytest.fixture(scope='module')
def pair(rig, tmp_path_factory):
  """A run of two processes."""
  workdir = tmp_path_factory.mktemp('runs') / 'pair'
  rig.run(2, workdir, KEEP_ALL)
  return workdir


def metrics(workdir: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def metrics_without_times(workdir: pathlib.Path) -> list[dict]:
  return [{name: value for name, value in line.items() if name != 'seconds'} for line in metrics(workdir)]


def conversations(workdir: pathlib.Path) -> dict[str, list[tuple]]:
  """Returns the conversations of all hosts, by file."""
  return {
    path.name: [(row.step, row.decoding, row.id, row.sample, [a.text for a in row.attempts]) for row in rows.read(path)]
    for path in sorted((workdir / 'rows').iterdir())
  }


def assert_same_lines(actual: list[dict], expected: list[dict]):
  """Counts are equal, floats within 1e-5: sums over devices are made in another order."""
  assert len(actual) == len(expected)
  for ours, theirs in zip(actual, expected, strict=True):
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {'seconds'}:
      if name in FLOATS:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
      else:
        assert ours[name] == theirs[name], name


def test_two_processes_train_as_one_process_with_as_many_devices(rig, pair, tmp_path):
  alone, workdir = tmp_path / 'alone', pair
  rig.run(1, alone, devices=2)
  expected = metrics(alone)
  assert_same_lines(metrics(workdir), expected)
  assert any(sum(line['accuracy']) > 0 for line in expected), 'something must have been learned from'
  assert (workdir / 'eval.json').read_text() == (alone / 'eval.json').read_text()
  assert conversations(workdir) == conversations(alone)
  assert (workdir / 'report.html').exists()
  np.testing.assert_array_equal(np.load(workdir / 'offline/stage1.npy'), np.load(alone / 'offline/stage1.npy'))
  ours, theirs = (load_file(folder / 'hf/model.safetensors') for folder in (workdir, alone))
  base = load_file(hosts_rig.ROOT / 'score_jax/assets/countdown_base/model.safetensors')
  assert ours.keys() == theirs.keys()
  for name in theirs:
    np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, err_msg=name)
  assert max(np.abs(theirs[name] - base[name]).max() for name in base) > 1e-3, 'training moved the weights'


def test_only_one_process_prints_and_the_other_says_nothing_of_its_own(rig, pair):
  assert 'final is step' in (rig.logs / 'pair.0').read_text()
  printed = [line for line in (rig.logs / 'pair.1').read_text().splitlines() if line and not line.startswith('[Gloo]')]
  assert not printed, printed


@pytest.mark.slow
def test_a_killed_coordinator_ends_all_and_a_restart_ends_the_same(rig, pair, tmp_path):
  workdir, victim, step = tmp_path / 'killed', 0, 4  # chaos_hosts.py kills any host at any moment
  processes = rig.start_all(2, workdir, KEEP_ALL)
  while hosts_rig.lines(workdir) < step and processes[0].poll() is None:
    time.sleep(0.005)
  processes[victim].kill()
  codes, _ = hosts_rig.ended(processes, DEADLINE)
  assert codes[victim] == -signal.SIGKILL
  assert codes[1 - victim] in hosts_rig.LOST, rig.printed(workdir)
  rig.run(2, workdir, KEEP_ALL)
  assert hosts_rig.fingerprint(workdir) == hosts_rig.fingerprint(pair)


@pytest.mark.slow
def test_hosts_that_share_a_bucket_and_no_disk_lose_both_disks_and_end_the_same(rig, pair, tmp_path, monkeypatch):
  pytest.importorskip('gcsfs', reason='needs the extra `gcs`')
  settings = (KEEP_ALL, '--workdir=gs://bucket/pod')

  def start(name: str):
    port = hosts_rig.free_port()
    folders = [tmp_path / f'{name}{i}' for i in range(2)]  # of their logs alone
    return [rig.start(f'local:127.0.0.1:{port},2,{i}', folder, *settings) for i, folder in enumerate(folders)]

  with fake_gcs.serving('bucket') as store:
    for name, value in store.environment().items():
      monkeypatch.setenv(name, value)
    processes = start('first')
    while not any('/checkpoints/3/' in name for name in store.names('bucket', 'pod/')) and processes[0].poll() is None:
      time.sleep(0.005)
    processes[1].kill()
    codes, _ = hosts_rig.ended(processes, DEADLINE)
    assert codes[1] == -signal.SIGKILL and codes[0] in hosts_rig.LOST, (rig.logs / 'first0.0').read_text()[-2000:]
    (first,) = (name for name in store.names('bucket', 'pod/') if name.endswith('/checkpoints/1/manifest.json'))
    saved = store.objects['bucket'][first]
    codes, _ = hosts_rig.ended(start('second'), 300)
    assert codes == [0, 0], [(rig.logs / f'second{i}.{i}').read_text()[-2000:] for i in range(2)]
    steps = [name for name in store.names('bucket', 'pod/') if name.endswith('/checkpoints/1/manifest.json')]
    assert steps == [first] and store.objects['bucket'][first] == saved, 'it went on, and did not begin again'
    store.download('bucket', 'pod/', tmp_path / 'store')
  assert hosts_rig.fingerprint(tmp_path / 'store') == hosts_rig.fingerprint(pair)


@pytest.mark.slow
def test_a_signal_to_one_host_stops_all_at_one_step_that_is_saved(rig, pair, tmp_path):
  workdir, settings = tmp_path / 'asked', (KEEP_ALL, '--config.checkpoint.every=9')
  processes = rig.start_all(2, workdir, *settings)
  while hosts_rig.lines(workdir) < 3 and processes[0].poll() is None:
    time.sleep(0.005)
  processes[1].terminate()
  codes, _ = hosts_rig.ended(processes, DEADLINE)
  assert codes == [75, 75], rig.printed(workdir)
  step = hosts_rig.lines(workdir)
  assert (workdir / f'checkpoints/{step}/manifest.json').exists()
  for i in range(2):
    assert f'stopped by SIGTERM after step {step}' in (rig.logs / f'{workdir.name}.{i}').read_text()
  rig.run(2, workdir, *settings)
  assert metrics_without_times(workdir) == metrics_without_times(pair)


@pytest.mark.slow
def test_a_stopped_host_ends_the_others(rig, pair, tmp_path):
  workdir = tmp_path / 'stopped'
  shutil.copytree(pair / 'checkpoints', workdir / 'checkpoints')
  for name in ('config.json', 'eval.json'):
    shutil.copy(pair / name, workdir)
  before = (workdir / 'config.json').stat().st_mtime_ns
  processes = rig.start_all(2, workdir, KEEP_ALL, '--config.eval.problems=1000')  # evaluates the base anew, for long
  while (workdir / 'config.json').stat().st_mtime_ns == before and processes[0].poll() is None:
    time.sleep(0.05)
  time.sleep(1)
  processes[1].send_signal(signal.SIGSTOP)
  codes, _ = hosts_rig.ended(processes[:1], DEADLINE)
  processes[1].kill()
  processes[1].wait()
  assert codes[0] in hosts_rig.LOST, rig.printed(workdir)


def gradient(workdir: pathlib.Path, step: int, b1: float = 0.9) -> np.ndarray:
  """That of a step, read from Adam's first moments before and after it."""

  def moments(at: int) -> np.ndarray:
    rest = hosts_rig.arrays(workdir / f'checkpoints/{at}/rest')
    return np.concatenate([rest[path].astype(np.float64).ravel() for path in rest if "'mu'" in path])

  return (moments(step) - b1 * moments(step - 1)) / (1 - b1)


@pytest.mark.slow
@pytest.mark.parametrize(('count', 'devices'), [(1, 1), (2, 2)], ids=['one device', 'four devices of two hosts'])
def test_a_run_goes_on_with_other_devices_at_the_same_gradient(rig, pair, tmp_path, count, devices):
  workdir, step = tmp_path / f'on{devices}', 4
  shutil.copytree(pair, workdir)
  for path in (workdir / 'checkpoints').glob('[0-9]*'):
    if int(path.name) >= step:
      shutil.rmtree(path)
  processes = rig.start_all(count, workdir, KEEP_ALL, devices=devices)
  begun = time.monotonic()
  # The end of the run is the same as that of others: it need not be waited for.
  while not (workdir / f'checkpoints/{step}/commit_success.txt').exists() and time.monotonic() < begun + 200:
    assert processes[0].poll() is None, rig.printed(workdir)
    time.sleep(0.05)
  for process in processes:
    process.kill()
    process.wait()
  assert_same_lines(metrics(workdir)[:step], metrics(pair)[:step])  # accuracies, tokens: the same problems and keys
  expected = gradient(pair, step)
  assert np.linalg.norm(expected) > 1e-3
  assert np.linalg.norm(gradient(workdir, step) - expected) < 1e-5 * np.linalg.norm(expected)


def launched(rig, workdir: pathlib.Path, port: int, counts: tuple[int, ...], seconds: int) -> list[int]:
  """Exit codes of hosts 0, 1, ... that were told of these numbers of hosts."""
  settings = [f'--config.hosts.init_seconds={seconds}']
  choices = [f'local:127.0.0.1:{port},{count},{i}' for i, count in enumerate(counts)]
  return hosts_rig.ended([rig.start(choice, workdir, *settings) for choice in choices], 60)[0]


def test_hosts_that_do_not_all_come_end_with_one_line(rig, tmp_path):
  codes = launched(rig, tmp_path / 'missing', hosts_rig.free_port(), (3, 3), 3)
  assert codes[0] == 75 and codes[1] in hosts_rig.LOST  # host 1 may hear of host 0's end before its own time is over
  message = (rig.logs / 'missing.0').read_text()
  assert 'not all hosts came within config.hosts.init_seconds = 3; start all hosts again' in message
  assert 'stack trace' not in message


def test_hosts_that_were_told_of_different_counts_are_refused(rig, tmp_path):
  assert launched(rig, tmp_path / 'count', hosts_rig.free_port(), (2, 3), 20) == [78, 78]
  for i in range(2):
    assert 'host 1 differs in --distributed: hosts is 2 on host 0, 3 on it' in (rig.logs / f'count.{i}').read_text()


def test_a_taken_port_ends_all_processes(rig, tmp_path):
  with socket.create_server(('', 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
    port = other.getsockname()[1]
    assert launched(rig, tmp_path / 'taken', port, (2,), 3) == [75]
  assert f'port {port} of host 0 cannot be taken' in (rig.logs / 'taken.0').read_text()
  assert not (tmp_path / 'taken').exists()


def test_hosts_of_another_configuration_are_refused_by_field(rig, tmp_path):
  port = hosts_rig.free_port()
  processes = [
    rig.start(f'local:127.0.0.1:{port},2,{i}', tmp_path / 'differ', f'--config.optim.b2=0.9{i}') for i in range(2)
  ]
  codes, _ = hosts_rig.ended(processes, DEADLINE)
  assert codes == [78, 78], rig.printed(tmp_path / 'differ')
  for i in range(2):
    message = (rig.logs / f'differ.{i}').read_text()
    assert 'host 1 differs in what it runs: config.optim.b2 is 0.9 on host 0, 0.91 on it' in message
  assert not (tmp_path / 'differ').exists()


@pytest.mark.parametrize('choice', ['local:here', 'local:h:1,2', 'local:h:0,2,0', 'local:h:99,2,2', 'cloud'])
def test_a_malformed_flag_is_refused(choice):
  with pytest.raises(errors.ConfigError, match='--distributed=' + re.escape(choice)):
    hosts.start(choice, init_seconds=1, heartbeat_seconds=1, barrier_seconds=1)


@pytest.mark.parametrize(
  ('environment', 'choice'),
  [
    ({}, 'off'),
    ({'TPU_WORKER_HOSTNAMES': 'localhost'}, 'off'),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, 'tpu'),
    ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, 'off'),  # within sbatch, before srun
    ({'SLURM_STEP_NUM_TASKS': '4', 'SLURM_PROCID': '0'}, 'slurm'),
  ],
)
def test_auto_is_several_hosts_only_where_the_environment_names_them(environment, choice):
  assert hosts.detected(environment) == choice


def test_alone_everything_is_a_plain_call():
  hosts.start('local:nowhere:1,1,0', init_seconds=1, heartbeat_seconds=1, barrier_seconds=1)
  assert (hosts.index(), hosts.count(), hosts.is_main()) == (0, 1, True)
  assert hosts.gather('x', 3) == [3]
  assert hosts.from_main('x', lambda: 4) == 4
  assert hosts.to_main('x', 5) == [5]
  hosts.agree('x', dict(a=1))
  hosts.end(ValueError())


def test_a_difference_is_named_by_host_and_field():
  raised = {}

  def agree():
    with pytest.raises(errors.ConfigError) as error:
      hosts.agree('the plan', dict(a=dict(b=2 if hosts.index() == 2 else 1), c=[1]))
    raised[hosts.index()] = str(error.value)
    hosts.agree('a step whose loss is not finite', dict(loss=[1.0, float('nan')]))

  coordination.run(3, agree)
  assert set(raised.values()) == {'host 2 differs in the plan: a.b is 1 on host 0, 2 on it'} and len(raised) == 3


def test_a_message_of_jax_that_names_a_lost_host_is_not_a_bug():
  for text in ('UNKNOWN: Gloo AllReduce failed: Connection closed by peer', 'DEADLINE_EXCEEDED: Barrier timed out'):
    assert hosts._judged(RuntimeError(text))[0] == 75
  assert hosts._judged(errors.DataError('no such file')) == (65, 'no such file')


@pytest.mark.parametrize('length', [0, 1, 7, 8, 9, 100])
def test_long_values_go_in_parts(monkeypatch, length):
  monkeypatch.setattr(hosts, '_LONGEST', 8)
  value = bytes(range(length))

  def pass_on():
    if hosts.is_main():
      hosts._put('here', value)
    return hosts._get('here', 'a test', 'host 0')

  received, (client, _) = coordination.run(2, pass_on)
  assert received == [value] * 2
  assert client.messages == 2 * max(1, -(-length // 8))


def test_exchanges_give_every_host_what_host_0_makes_of_them():

  def exchange():
    number = hosts.index()
    return [
      hosts.gather('numbers', number),
      hosts.combined('the largest', number, max),
      hosts.from_main('a word', lambda: 'word'),
      hosts.to_main('squares', number**2),
      hosts.gather('numbers', -number),
    ]

  results, clients = coordination.run(3, exchange)
  assert [result[:3] for result in results] == [[[0, 1, 2], 2, 'word']] * 3
  assert [result[3] for result in results] == [[0, 1, 4], [], []]
  assert [result[4] for result in results] == [[0, -1, -2]] * 3
  assert not clients[0]._service.below('score_jax/0/'), 'what all have read is deleted'


def test_hosts_that_no_longer_do_the_same_are_told():

  def drift():
    with pytest.raises(errors.HostError, match="is at '(one|the other)', host . at"):
      hosts.gather('one' if hosts.is_main() else 'the other', 1)
    hosts._put('score_jax/0/all', json.dumps(['one', 1]).encode())  # host 0 has ended

  coordination.run(2, drift)


def test_a_host_that_does_not_come_is_named(monkeypatch):
  monkeypatch.setattr(hosts, '_SLICE_MS', 10)

  def come():
    if hosts.is_main():
      with pytest.raises(
        errors.HostError, match=r"host 1 did not come to 'x' within config\.hosts\.barrier_seconds = 0"
      ):
        hosts.gather('x', 1)

  coordination.run(2, come, patience=0.05)


def test_a_task_is_led_by_host_0_in_rounds_and_beside_other_exchanges():
  made = {}

  def lead(hand_out):
    first = hand_out([['a'], ['b', 'c'], []])
    return [first, hand_out([[str(sum(first))]] * 3)]

  def part(share):
    made.setdefault(hosts.index(), []).append(share)
    return len(share)

  def work():
    with futures.ThreadPoolExecutor(1) as thread:
      led = thread.submit(contextvars.copy_context().run, hosts.led, 'counting', lead, part)
      beside = hosts.gather('beside it', hosts.index())
      return (
        led.result(),
        beside,
        hosts.led('nothing to do', lambda hand_out: 'done', part),
        hosts.led('counting', lead, part),
      )

  results, clients = coordination.run(3, work)
  expected = [[1, 2, 0], [1, 1, 1]]
  assert results == [(expected, [0, 1, 2], 'done', expected)] * 3
  assert made[1] == [['b', 'c'], ['3']] * 2
  assert not clients[0]._service.below('score_jax/counting/0/')
  assert hosts.led('alone', lambda hand_out: hand_out([['a']]), part) == [1]


def test_what_64_hosts_spend_on_agreeing_grows_no_faster_than_hosts():
  """Real exchanges of a step and a save; seconds are the model's. Host 0 talks to 63 others for 7."""
  few, many = (many_hosts.figures(count, 1) for count in (8, 64))
  for kind in ('step', 'save'):
    for figure in few[kind]:
      assert many[kind][figure] <= 9.2 * few[kind][figure] + 0.02, (kind, figure)
  assert many['step']['seconds'] + many['save']['seconds'] < 1.0


def test_a_signal_that_ends_a_host_is_told_as_one(monkeypatch):
  monkeypatch.setattr(hosts.signals, '_state', types.SimpleNamespace(signal=15))
  assert hosts._judged(SystemExit(75)) == (75, 'stopped by SIGTERM')


def test_a_bug_keeps_its_traceback(capsys):
  assert hosts._judged(ZeroDivisionError('by zero'))[0] == 1
  assert 'ZeroDivisionError: by zero' in capsys.readouterr().err
