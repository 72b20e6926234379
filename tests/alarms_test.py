"""Each alarm on a scripted trace of its fault, and silence on runs that are well."""

import json
import pathlib

import numpy as np
import pytest

from score_jax.reporting import alarms
from score_jax.reporting.alarms import ALARMS

KL_ALARM = 10.0
FAULT = 60  # step from which a fault is there
STEPS = 140


def healthy(seed=0, first=0.45, gain=0.12, steps=STEPS):
  """A run that learns to correct: accuracy and delta rise, everything else stays calm. Noise as of 64 x 8 rows."""
  rng = np.random.default_rng(seed)
  lines = []
  for t in range(steps):
    done = min(1.0, t / 60)
    one = float(np.clip(first + 0.05 * done + 0.03 * rng.standard_normal(), 0, 1))
    fixed, broken = gain * done + 0.02, 0.03 * (1 - done) + 0.005
    noise = abs(0.01 * rng.standard_normal())
    lines.append(
      dict(
        step=t + 1,
        stage='stage1' if t < 50 else 'stage2',
        visit=int(t >= 50),
        accuracy=[one, float(np.clip(one + fixed - broken + noise, 0, 1))],
        accuracy_se=[0.03, 0.03],
        i_to_c=fixed + noise,
        c_to_i=broken,
        kl=[0.1 + 0.5 * done, 1.0 + done],
        truncated=[0.03, 0.02],
        unparsed=[0.04 + noise, 0.02],
        i_to_i_same=0.4 * (1 - one),
        text_changed=0.35 + 0.5 * done,
        answer_changed=0.25 + 0.2 * done,
        flat=[0.2, 0.2 + 0.2 * done],
        mismatch=0.01,
        reference=1234,
      )
    )
  return lines


def copies(line, t):
  line |= dict(text_changed=max(0.01, line['text_changed'] - 0.1 * t), answer_changed=0.0)


def sandbagged(line, t):
  fall = min(0.4, 0.02 * t)
  line['accuracy'] = [max(0.0, line['accuracy'][0] - fall), line['accuracy'][1]]
  line['i_to_c'] += fall


def always_changes(line, t):
  line |= dict(answer_changed=0.97, text_changed=1.0, c_to_i=0.6 * line['accuracy'][0])


def kl_first(line, t):
  line['kl'] = [line['kl'][0] + 0.8 * t, line['kl'][1]]


def truncated_first(line, t):
  line['truncated'] = [min(0.9, 0.05 * t), 0.02]


def truncated_later(line, t):
  line['truncated'] = [0.03, min(0.9, 0.05 * t)]


def no_variance(line, t):
  line['flat'] = [0.5, min(0.98, 0.4 + 0.05 * t)]


def format_collapse(line, t):
  line['unparsed'] = [line['unparsed'][0], min(0.8, 0.02 * t)]


def mismatch(line, t):
  line['mismatch'] = 0.3


def reference_moved(line, t):
  line['reference'] = 1234 + t


# fault -> its alarm, and within how many steps it must sound
FAULTS = {
  'copies': (copies, 32),
  'sandbagged': (sandbagged, 35),
  'always_changes': (always_changes, 20),
  'kl_first': (kl_first, 25),
  'truncated_first': (truncated_first, 12),
  'truncated_later': (truncated_later, 12),
  'no_variance': (no_variance, 32),
  'format': (format_collapse, 12),
  'mismatch': (mismatch, 5),
  'reference_moved': (reference_moved, 2),
}


def test_every_alarm_has_a_fault():
  assert set(FAULTS) == set(ALARMS)


@pytest.mark.parametrize('name', FAULTS)
def test_an_alarm_sounds_soon_after_its_fault_and_not_before(name):
  lines, (fault, within) = healthy(), FAULTS[name]
  for t, line in enumerate(lines[FAULT:]):
    fault(line, t)
  result = [steps for alarm, *steps in alarms.spells(lines, KL_ALARM) if alarm.name == name]
  assert result, 'it never sounds'
  assert FAULT < result[0][0] <= FAULT + within
  assert result[-1][1] == STEPS, 'the fault is still there at the end'
  others = {alarm.name for alarm, *_ in alarms.spells(lines, KL_ALARM)} - {name}
  assert not others, 'a fault has one name'


@pytest.mark.parametrize(
  'run',
  [
    dict(seed=1),
    dict(seed=2, first=0.2, gain=0.05),
    dict(seed=3, first=0.8, gain=0.1),
    dict(seed=4, first=0.02, gain=0.01, steps=12),
  ],
)
def test_no_alarm_sounds_in_a_run_that_is_well(run):
  assert alarms.spells(healthy(**run), KL_ALARM) == []


def test_wrong_answers_that_are_repeated_in_other_words_are_copies():
  lines = healthy()
  for line in lines[FAULT:]:  # every tenth text is another, as in runs of programs, and hardly an answer is
    line |= dict(text_changed=0.1, answer_changed=0.02, i_to_i_same=0.97 * (1 - line['accuracy'][0]))
  [(alarm, first, last)] = alarms.spells(lines, KL_ALARM)
  assert (alarm.name, first, last) == ('copies', FAULT + 20, STEPS)


# Offline first attempts: three quarters of a step's problems, after `FAULT`.


def told_apart(line, own, offline):
  """Makes a record that of a step with both kinds of first attempts, one part in four its own."""
  parts = (own, offline, 0.25, 0.75)
  line |= dict(on_policy=own, offline=offline)
  line['accuracy'] = [own['accuracy'][i] * parts[2] + offline['accuracy'][i] * parts[3] for i in range(2)]
  for name in ('text_changed', 'answer_changed', 'i_to_i_same'):
    line[name] = own[name] * parts[2] + offline[name] * parts[3]


def part_of(line, **changes):
  names = ('accuracy', 'accuracy_se', 'i_to_c', 'c_to_i', 'i_to_i_same', 'text_changed', 'answer_changed', 'truncated')
  return {name: line[name] for name in (*names, 'unparsed')} | changes


def test_offline_first_attempts_that_are_wrong_are_no_sandbagging():
  lines = healthy()
  for line in lines[FAULT:]:
    told_apart(line, part_of(line), part_of(line, accuracy=[0.05, 0.3], truncated=[0.5, 0.0]))
  assert alarms.spells(lines, KL_ALARM) == []
  for line in lines:  # as they were recorded before the two were told apart
    line.pop('offline', None)
  assert {alarm.name for alarm, *_ in alarms.spells(lines, KL_ALARM)} == {'sandbagged'}


def test_a_policy_that_corrects_the_bases_answers_and_repeats_its_own_copies():
  lines = healthy()
  for line in lines[FAULT:]:
    told_apart(line, part_of(line, text_changed=0.01, answer_changed=0.0, i_to_i_same=0.5), part_of(line))
  [(alarm, first, _)] = alarms.spells(lines, KL_ALARM)
  assert alarm.name == 'copies' and FAULT < first <= FAULT + 20


def test_without_on_policy_first_attempts_their_alarms_are_silent_and_copies_are_seen():
  lines = healthy()
  for line in lines[FAULT:]:
    line |= dict(accuracy=[0.05, 0.05], truncated=[0.5, 0.0], unparsed=[0.5, 0.02], text_changed=0.01)
    line |= dict(offline=part_of(line))
  assert {alarm.name for alarm, *_ in alarms.spells(lines, KL_ALARM)} == {'copies'}


def test_no_alarm_sounds_in_a_quickstart():
  path = pathlib.Path(__file__).parent / 'testdata/quickstart_metrics.jsonl'
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert len(lines) == 60
  assert alarms.spells(lines, KL_ALARM) == []


def test_a_step_looks_only_at_those_before_it():
  lines = healthy()
  for t, line in enumerate(lines[FAULT:]):
    for fault in (sandbagged, kl_first, format_collapse):
      fault(line, t)
  whole = alarms.sounding(lines, KL_ALARM)
  for cut in (1, 5, 70, 90, 139):
    for name, on in alarms.sounding(lines[:cut], KL_ALARM).items():
      np.testing.assert_array_equal(on, whole[name][:cut])


def test_what_a_run_reaches_later_is_no_measure_of_its_beginning():
  lines = healthy()
  for line in lines:
    early = line['step'] <= 70
    line['accuracy'] = [0.3, 0.6] if early else [0.7, 0.75]
  assert alarms.spells(lines, KL_ALARM) == []


def test_lines_of_an_older_version_raise_no_alarm_and_no_error():
  old = [dict(step=i + 1, stage='s', accuracy=[0.5, 0.5], kl=[0.1, 0.1]) for i in range(40)]
  assert alarms.spells(old, KL_ALARM) == []
  assert alarms.spells([], KL_ALARM) == []


def test_the_reference_may_change_between_visits():
  lines = healthy()
  for line in lines[50:]:
    line['reference'] = 99
  assert alarms.spells(lines, KL_ALARM) == []


def test_trailing_mean_by_hand():
  result = alarms.trailing_mean(np.array([1.0, 2.0, 6.0, np.nan, 1.0]), 2)
  np.testing.assert_array_equal(result, [np.nan, 1.5, 4.0, np.nan, np.nan])


@pytest.mark.parametrize('alarm', ALARMS.values(), ids=lambda alarm: alarm.name)
def test_an_alarm_names_fields_that_exist(alarm):
  from score_jax.configs import common

  config = common.get_config().to_dict()
  fields = [word.strip('(),') for word in alarm.field.split() if '.' in word]
  assert fields or alarm.name in ('reference_moved', 'no_variance')
  for field in fields:
    section = config
    for part in field.split('[')[0].replace('*', 'stage2').split('.'):
      assert part in section, field
      section = section[part]
