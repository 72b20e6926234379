"""Trackers get each step that is saved once, however often the run is killed: fakes, and the real clients offline."""

import json
import pathlib
import struct
import subprocess
import sys
import types

import disturbed
import fake_wandb
import pytest
import tiny
import tracked

from score_jax.core_types import Verdict
from score_jax.errors import ConfigError, TryAgainError
from score_jax.reporting import rows, trackers, written_steps
from score_jax.storage.run_folder import RunFolder

INFO = trackers.RunInfo(pathlib.Path(), 'run', tracked.ID, dict(seed=0))
PACKAGES = dict(tensorboard='tensorboardX', wandb='wandb', trackio='trackio')


class Kept:
  """Remembers what it is sent; fails at one step."""

  def __init__(self, last=-1, fails_at=None):
    self.last, self.fails_at = last, fails_at
    self.entries, self.final = [], None

  def send(self, entry):
    if entry.step == self.fails_at:
      raise OSError('no network')
    self.entries.append(entry)

  def close(self, final):
    self.final = final

  @property
  def steps(self):
    return [entry.step for entry in self.entries]

  @property
  def tables(self):
    return {entry.step: {name: len(part) for name, part in entry.tables.items()} for entry in self.entries}


def feed(folder, *kept, **changes):
  return trackers.Feed(kept, folder, **dict(every=3, last=8, rows=2) | changes)


def report(**fields):
  return tiny.run_config(**{f'report.{name}': value for name, value in fields.items()}).report


@pytest.fixture
def folder(tmp_path):
  tracked.write_run(tmp_path / 'run', 8)
  return tmp_path / 'run'


# What is sent.


def test_only_what_a_checkpoint_holds_is_sent_and_once(folder):
  kept = Kept()
  fed = feed(folder, kept)
  seen = [(fed.up_to(step), kept.steps.copy())[1] for step in (0, 3, 3, 5)]
  assert seen == [[], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
  with (folder / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 9, "sta')
  fed.up_to(9)
  assert kept.steps == [*range(9)], 'a half line is none'


def test_a_run_that_goes_on_sends_what_a_tracker_has_not_written(folder):
  whole, part = Kept(last=4), Kept(last=-1)
  feed(folder, whole, part).up_to(6)
  assert (whole.steps, part.steps) == ([5, 6], [*range(7)])


def test_conversations_come_at_fixed_steps_wherever_a_run_was_cut(folder):
  kept = Kept()
  fed = feed(folder, kept)
  for step in (2, 4, 8):
    fed.up_to(step)
  expected = {3: {'conversations': 6}, 6: {'conversations': 6}, 8: {'conversations': 4}}
  assert kept.tables == {0: {'eval/conversations': 2}} | {step: expected.get(step, {}) for step in range(1, 9)}
  later = Kept(last=4)
  feed(folder, later).up_to(8)
  assert later.tables == {step: kept.tables[step] for step in range(5, 9)}


def test_an_evaluation_shows_its_sampled_conversations(folder):
  lines = [tracked.record(1), tracked.record(2, eval=dict(greedy=dict(delta=0.25)))]
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  rows.write(folder / 'rows/step2.jsonl.gz', [tracked.row(decoding='greedy'), *[tracked.row()] * 5])
  kept = Kept()
  feed(folder, kept).up_to(2)
  assert kept.tables[2] == {'eval/conversations': 2} and kept.entries[2].values['eval/greedy/delta'] == 0.25
  assert kept.entries[0].values == {'eval/sampled/delta': 0.1}
  feed(folder, none := Kept(), rows=0).up_to(2)
  assert none.tables[2] == {}


def test_a_tracker_that_fails_harms_neither_the_run_nor_the_others(folder):
  told, kept, failing = [], Kept(), Kept(fails_at=2)
  fed = feed(folder, failing, kept, say=told.append)
  fed.up_to(3)
  fed.close(dict(final=dict(sampled=dict(delta=0.2))))
  assert (kept.steps, failing.steps) == ([0, 1, 2, 3], [0, 1])
  assert told == ['warning: Kept gets no more steps until the run is started again (OSError: no network)']
  assert (kept.final, failing.final) == ({'final/sampled/delta': 0.2}, None)


def test_texts_of_a_model_are_no_markup():
  row = tracked.row(3, '```\n<img src=x>\n\n# head\u202e')
  lines = trackers.markdown([row]).split('\n')
  assert lines[0] == '#### wrong -> correct (step 3, stage1)'
  assert {line for line in lines if line and not line.startswith('    ')} == {
    lines[0],
    'question:',
    'attempt 1:',
    'attempt 2:',
  }
  assert '    # head<U+202E>' in lines
  assert trackers.cells(row)['attempt 1'] == '```\n<img src=x>\n\n# head<U+202E>'


def test_scalars_have_a_name_for_every_number():
  values = trackers.scalars(
    tracked.record(
      3,
      seconds=dict(sample=1.5),
      attempt_gradient_norm=[1.0, 2.0],
      eval=dict(greedy=dict(delta=0.1, fix_rate=None, intervals=dict(delta=[0, 1]))),
    )
  )
  assert values['accuracy/2'] == 0.5 and values['delta'] == 0.25 and values['seconds/sample'] == 1.5
  assert values['eval/greedy/delta'] == 0.1
  assert not {name for name in values if 'interval' in name or 'fix_rate' in name or name in ('step', 'stage')}


# A run's id.


def test_an_id_stays_with_its_run_and_differs_between_runs_of_one_identity(tmp_path):
  folders = [RunFolder(tmp_path / name) for name in ('a', 'a', 'b')]
  ids = []
  for folder in folders:
    folder.claim({}, dict(seed=1))
    folder.add_metrics(dict(step=1))
    ids.append(folder.read_config()['run_id'])
  assert ids[0] == ids[1] != ids[2] and ids[0][:8] == ids[2][:8]
  other = RunFolder(tmp_path / 'c')
  other.claim({}, dict(seed=1))
  before = other.read_config()['run_id']
  other.claim({}, dict(seed=2))  # nothing had begun
  assert other.read_config()['run_id'][:8] != before[:8]


# Files of the clients.


def wandb_file(records: list[bytes]) -> bytes:
  """As LevelDB writes a log."""
  content = b':W&B\xe1\xbe\x00'
  for record in records:
    first = True
    while True:
      left = written_steps._BLOCK - len(content) % written_steps._BLOCK
      if left < 7:
        content += bytes(left)
        continue
      part, record = record[: left - 7], record[left - 7 :]
      kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not record]
      content += struct.pack('<IHB', 0, len(part), kind) + part
      first = False
      if not record:
        break
  return content


@pytest.mark.parametrize('size', [10, 32_740, 32_754, 32_755, 32_760, 70_000])
def test_records_are_read_across_blocks_and_up_to_a_cut(tmp_path, size):
  records = [b'a' * size, b'b' * 100_000, b'c']
  path = tmp_path / 'run.wandb'
  path.write_bytes(wandb_file(records))
  assert list(written_steps.wandb_records(path)) == records
  for cut in (1, 5, 8, 100, 70_000):
    path.write_bytes(wandb_file(records)[:-cut])
    assert list(written_steps.wandb_records(path)) == records[: 2 if cut < 10 else 1]
  path.write_bytes(b':W&B')
  assert list(written_steps.wandb_records(path)) == []


# The clients.


def test_a_client_that_is_missing_or_refuses_is_one_line(tmp_path, monkeypatch):
  for field, package in PACKAGES.items():
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
      ConfigError, match=rf'config.report.{field} = .* needs {package}: pip install .score_jax\[{field}\]'
    ):
      trackers.open_trackers(report(**{field: True if field == 'tensorboard' else 'mine'}), INFO)

  class Refusal(Exception):
    pass

  def refuse(**_):
    raise Refusal('api_key not configured\n(no-tty)')

  monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=refuse, Error=Refusal))
  with pytest.raises(ConfigError) as told:
    trackers.open_trackers(report(wandb='mine'), INFO)
  assert str(told.value).startswith(
    "config.report.wandb = 'mine' is refused: api_key not configured (no-tty); correct it, or log in"
  )
  monkeypatch.setattr(Refusal, '__str__', lambda _: 'Run initialization has timed out after 90.0 sec')
  with pytest.raises(TryAgainError, match="wandb = 'mine': no answer: Run initialization has timed out .*; try again"):
    trackers.open_trackers(report(wandb='mine'), INFO)
  assert trackers.open_trackers(report(), INFO) == []


def test_weights_and_biases_is_told_what_the_configuration_says_and_the_server_where_it_is(tmp_path, monkeypatch):
  begun, logged, ended = [], [], []
  run = types.SimpleNamespace(
    starting_step=4,
    summary={},
    log=lambda values, step, commit: logged.append((step, commit)),
    finish=lambda exit_code: ended.append(exit_code),
  )
  fake = types.SimpleNamespace(init=lambda **fields: begun.append(fields) or run, Error=OSError, Table=dict)
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  monkeypatch.setattr(written_steps, 'wandb', lambda folder, id: [1, 2])
  info = trackers.RunInfo(tmp_path, 'run', tracked.ID, dict(seed=0))
  fields = dict(wandb='mine', wandb_entity='team', group='g', tags=('a', 'b'))
  [tracker] = trackers.open_trackers(report(**fields), info)
  assert tracker.last == 3, 'the server is further than the files'
  asked = dict(project='mine', entity='team', group='g', tags=['a', 'b'], id=tracked.ID, name='run', resume='allow')
  assert asked.items() <= begun[0].items()
  tracker.send(trackers.Entry(4, dict(delta=0.5), {}))
  tracker.close({})
  assert (logged, ended) == ([(4, True)], [1])


@pytest.mark.slow
@pytest.mark.parametrize('field', PACKAGES)
def test_killed_twice_a_client_has_each_step_once(field, tmp_path):
  pytest.importorskip(PACKAGES[field], reason=f'needs the extra `{field}`')
  folder = tmp_path / 'run'
  tracked.write_run(folder, 40)
  tracked.go_on(folder, 20, (field,), kill=1.0)
  first = tracked.steps(folder, field)
  tracked.go_on(folder, 33, (field,), kill=0.0)
  tracked.go_on(folder, 39, (field,))
  assert tracked.steps(folder, field) == dict.fromkeys(range(40), 1) and 0 < len(first) < 40
  assert f'has {39}' in tracked.go_on(folder, 39, (field,))
  assert tracked.steps(folder, field) == dict.fromkeys(range(40), 1)


@pytest.mark.slow
def test_wandb_s_server_has_each_step_once_too_online_and_by_wandb_sync(tmp_path):
  pytest.importorskip('wandb', reason='needs the extra `wandb`')
  with fake_wandb.serving() as (served, site):
    online = dict(WANDB_MODE='online', WANDB_BASE_URL=site, WANDB_API_KEY='a' * 40)
    folder = tmp_path / 'online/run'
    tracked.write_run(folder, 30, conversations=False)  # tables are artifacts, which are not imitated
    tracked.go_on(folder, 10, ('wandb',), kill=3.0, **online)
    tracked.go_on(folder, 20, ('wandb',), kill=0.0, **online)
    tracked.go_on(folder, 29, ('wandb',), **online)
    assert served.steps.pop(tracked.ID) == [*range(30)]
    begun = served.begun[tracked.ID]
    assert (begun['entity'], begun['project'], begun['displayName']) == ('team', 'kept', 'run')
    folder = tmp_path / 'offline/run'
    tracked.write_run(folder, 30, conversations=False)
    tracked.go_on(folder, 20, ('wandb',), kill=1.0)
    tracked.go_on(folder, 29, ('wandb',))
    command = [sys.executable, '-m', 'wandb', 'sync']
    for part in sorted((folder / 'wandb').glob('offline-run-*')):
      env = tracked.environment(folder.parent) | online
      run = dict(cwd=tmp_path, env=env, check=True, capture_output=True, stdin=subprocess.DEVNULL)
      subprocess.run([*command, str(part)], **run)
    assert served.steps == {tracked.ID: [*range(30)]}


@pytest.mark.slow
def test_killed_twice_a_run_has_each_step_once_on_every_tracker(tmp_path, monkeypatch):
  for package in PACKAGES.values():
    pytest.importorskip(package)
  for name, value in tracked.environment(tmp_path).items():
    monkeypatch.setenv(name, value)
  cache, folder = tmp_path / 'cache', tmp_path / 'run'
  flags = ('--config.report.tensorboard=True', '--config.report.wandb=kept', '--config.report.trackio=kept')
  for steps in (7, 14):
    with disturbed.start(folder, cache, *flags) as process:
      disturbed.wait_for(lambda n=steps: len(disturbed.lines(folder)) >= n, process)
      disturbed.end(process)
  disturbed.run_to_the_end(folder, cache, *flags)
  id = RunFolder(folder).read_config()['run_id']
  for field in PACKAGES:
    assert tracked.steps(folder, field, id) == dict.fromkeys(range(disturbed.STEPS + 1), 1), field


def test_tensorboard_has_scalars_and_conversations_in_one_event_a_step(folder):
  pytest.importorskip('tensorboardX', reason='needs the extra `tensorboard`')
  fed = tracked.feed(folder, ('tensorboard',))
  fed.up_to(3)
  fed.close({})
  [path] = (folder / 'tensorboard').iterdir()
  events = list(written_steps.tensorboard_events(path))
  assert [event.step for event in events] == [0, 1, 2, 3]
  values = {value.tag: value for value in events[3].summary.value}
  assert values['delta'].simple_value == 0.25 and 'conversations/text_summary' in values
  [text] = values['conversations/text_summary'].tensor.string_val
  assert text.decode().count('#### ') == 6
  path.write_bytes(path.read_bytes()[:-3])
  assert written_steps.tensorboard(path.parent) == [0, 1, 2], 'an event that was cut off is none'


def test_verdicts_stand_beside_texts():
  cells = trackers.cells(tracked.row(3, 'x', Verdict.UNPARSED))
  assert (cells['verdict 1'], cells['verdict 2'], cells['step']) == ('unparsed', 'correct', 3)
