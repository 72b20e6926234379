"""The live monitor: alarms that are printed and that end a run, lines for the terminal."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.errors import ConfigError, StoppedError
from score_jax.reporting import alarms, plain_text, trackers
from score_jax.reporting import monitor as monitors
from score_jax.storage import stores
from score_jax.storage.checkpoints import Checkpoints
from score_jax.training import loop
from score_jax.training import run as runs
from score_jax.training.update import checksum


def record(step, **changes):
  fields = dict(
    step=step,
    stage='stage1',
    accuracy=[0.5, 0.6],
    i_to_c=0.15,
    c_to_i=0.05,
    kl=[0.1, 0.2],
    answer_changed=0.3,
    text_changed=0.5,
    mismatch=0.01,
    verdicts=dict(unparsed=[0, 0], timeout=[0, 0], error=[0, 0]),
    seconds=dict(sample=1.5),
  )
  return fields | changes


def monitor(tmp_path, **changes):
  settings = {f'report.{name}': value for name, value in changes.items()}
  written = []
  live = monitors.Monitor(
    tiny.run_config(**settings).report,
    tmp_path / 'metrics.jsonl',
    20,
    0,
    write_report=lambda: written.append(1),
  )
  return live, written


def test_an_alarm_is_printed_once_and_ends_the_run_only_if_asked(tmp_path, capsys):
  quiet, _ = monitor(tmp_path)
  stopping, written = monitor(tmp_path, stop_on=('mismatch',))
  for step in range(1, 9):
    stopped = stopping.after_step(record(step, mismatch=0.3))
    assert quiet.after_step(record(step, mismatch=0.3)) is None
    if step < 5:
      assert stopped is None and not written
  assert isinstance(stopped, StoppedError) and stopped.exit_code == 76
  assert "alarm 'mismatch' sounds after step 8" in str(stopped) and 'sampling.cache_dtype' in str(stopped)
  assert written
  printed = capsys.readouterr()
  assert (printed.out + printed.err).count('alarm mismatch (') == 2, 'once by each'


def test_a_resumed_run_remembers_its_lines(tmp_path):
  with (tmp_path / 'metrics.jsonl').open('w') as file:
    for step in range(1, 5):
      file.write(json.dumps(record(step, mismatch=0.3)) + '\n')
    file.write('{"step": 5, "sta')
  live, _ = monitor(tmp_path, stop_on=('mismatch',))
  assert live.after_step(record(5, mismatch=0.3)) is not None


def test_unknown_alarms_are_refused(tmp_path):
  with pytest.raises(ConfigError, match="config.report.stop_on names 'copy'; use copies, sandbagged"):
    monitor(tmp_path, stop_on=('copy',))


def test_the_report_is_written_while_the_run_lasts(tmp_path):
  live, written = monitor(tmp_path, every=3)
  counts = [(live.after_step(record(step)), len(written))[1] for step in range(1, 8)]
  assert counts == [0, 0, 1, 1, 1, 2, 2]


def test_a_run_that_an_alarm_stops_is_saved(hf_folder, tmp_path, monkeypatch):
  fault = alarms.Alarm('copies', 'says', 'cause', 'field', 1, lambda mean, _: np.arange(len(mean.records)) >= 2)
  monkeypatch.setitem(alarms.ALARMS, 'copies', fault)
  changes = {'model.path': str(hf_folder), 'checkpoint.every': 10}
  config = tiny.run_config(**changes, **{'report.stop_on': ('copies',)})
  with pytest.raises(StoppedError, match="alarm 'copies' sounds after step 3"):
    loop.train(runs.open_run(config, str(tmp_path / 'run')))
  saved = Checkpoints(stores.store_of(tmp_path / 'run'), read_only=True)
  assert saved.last_step() == 3
  saved.close()
  assert (tmp_path / 'run/report.html').exists()


# The reference's checksum.


def test_checksum_sees_one_bit_of_one_weight_in_any_dtype():
  tree = dict(a=jnp.ones((3, 4), jnp.bfloat16), b=jnp.full((5,), -2.5, jnp.float32))
  before = int(checksum(tree))
  words = 12 * 0x3F80 + 5 * 0xC0200000
  assert before == words % 2**32
  assert int(checksum(jax.tree.map(jnp.copy, tree))) == before
  tree['b'] = tree['b'].at[2].set(np.nextafter(np.float32(-2.5), np.float32(0)))
  assert int(checksum(tree)) == before - 1


# The terminal.


def test_the_line_below_the_bar_is_the_ledger_of_the_last_steps():
  lines = [record(1, i_to_c=0.1, c_to_i=0.0), record(2, i_to_c=0.2, c_to_i=0.1)]
  assert monitors.ledger_line(lines, ['copies', 'format']) == (
    'last 2: delta +10.0 = fixed 15.0 - broken 5.0, answers changed 30.0, texts 50.0 % | alarms: copies, format'
  )
  assert monitors.ledger_line(lines, []).endswith('alarms: none')


def test_the_terminal_tells_on_policy_and_offline_first_attempts_apart():
  own = dict(accuracy=[0.5, 0.6], i_to_c=0.2, c_to_i=0.1, delta=0.1, answer_changed=0.3, text_changed=0.5)
  given = dict(accuracy=[0.1, 0.5], i_to_c=0.4, c_to_i=0.0, delta=0.4)
  lines = [record(1, on_policy=own, offline=given), record(2)]
  assert monitors.ledger_line(lines[:1], []) == (
    'last 1 on-policy first attempts: delta +10.0 = fixed 20.0 - broken 10.0 (offline first attempts: +40.0), '
    'answers changed 30.0, texts 50.0 % | alarms: none'
  )
  assert monitors._figures(lines[0]) == (
    'on-policy first 50.0 -> 60.0 %, i->c 20.0, c->i 10.0, offline first 10.0 -> 50.0 %, i->c 40.0, c->i 0.0, '
    'KL 0.100 0.200'
  )
  assert monitors._figures(lines[1]).startswith('accuracy 50.0 -> 60.0 %, i->c 15.0, c->i 5.0, KL')
  values = trackers.scalars(lines[0])
  assert (values['on_policy/accuracy/2'], values['offline/delta']) == (0.6, 0.4)


def test_samples_are_printed_where_an_evaluation_has_them():
  at_k = dict(k=4, problems=9, t1=dict(avg=dict(value=0.5), maj=dict(value=0.25)))
  point = dict(samples=2, tokens=10.0, accuracy=0.5)
  curves = dict(parallel=[point], sequential=[point], equal_tokens=[dict(tokens=10.0, gain=-0.015)])
  lines = plain_text.sample_lines(dict(greedy=dict(), sampled=dict(at_k=at_k), scaling=dict(curves=curves)))
  assert lines == [
    'sampled, t1, 4 samples: avg 50.0, maj 25.0',
    'scaling, majority of parallel samples: 2: 50.0 (10 tokens)',
    'scaling, majority of sequential samples: 2: 50.0 (10 tokens)',
    'scaling, at 10 tokens: sequential is -1.5 ahead',
  ]
