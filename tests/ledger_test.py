"""Numbers with an answer by hand: ledger, metrics, table, learning rate, weight layouts, offline pool."""

import dataclasses
from fractions import Fraction
import math

import jax
import numpy as np
import optax
import pytest
import tiny

from score_jax.core_types import Problem, Stage, StageOptim, Stop, Verdict
from score_jax.models import weights
from score_jax.reporting import metrics, plain_text
from score_jax.reporting.ledger import ledger, mcnemar, wilson
from score_jax.storage.progress import Progress
from score_jax.training import offline, optim

W, C, U, T, E = Verdict.WRONG, Verdict.CORRECT, Verdict.UNPARSED, Verdict.TIMEOUT, Verdict.ERROR


def stage(**changes):
  fields = dict(learning_rate=0.5, schedule='constant', warmup_steps=0, reset_moments=False)
  own = {name: changes.pop(name) for name in list(changes) if name in fields}
  stage_fields = dict(
    name='stage2',
    steps=10,
    reward_weights=(1.0, 1.0),
    bonus=(0.0, 10.0),
    kl_weights=(0.01, 0.01),
    gamma=0.0,
    reference='base',
    offline_first=0.0,
  )
  return Stage(**stage_fields | changes, optim=StageOptim(**fields | own))


# The ledger.


def test_ledger_of_a_table_counted_by_hand():
  verdicts = np.array([[C, C], [C, W], [W, C], [U, C], [W, W], [T, U], [C, C], [U, C], [E, C], [C, E]], np.int8)
  result = ledger(verdicts)
  assert (result['n'], result['errors']) == (8, 2)
  assert result['acc_t1'] == 3 / 8
  assert result['acc_t2'] == 5 / 8
  assert result['i_to_c'] == 3 / 8
  assert result['c_to_i'] == 1 / 8
  assert result['delta'] == 2 / 8
  assert (result['c_to_c'], result['i_to_i']) == (2 / 8, 2 / 8)
  assert (result['fix_rate'], result['break_rate']) == (3 / 5, 1 / 3)
  assert result['mcnemar_p'] == 2 * (1 + 4) / 16  # one of four changes is a loss
  assert result['between'] == [[2, 3, 1, 2]]
  # Draws of Dirichlet(3.5, 1.5, ...): mean (3.5 - 1.5) / 10, variance (3.5 + 1.5) / 110 - 0.2^2 / 11.
  low, high = result['intervals']['delta']
  assert low < 0.2 < high
  np.testing.assert_allclose(high - low, 2 * 1.96 * math.sqrt(5 / 110 - 0.04 / 11), rtol=0.05)
  for name, count in dict(acc_t1=3, acc_t2=5, i_to_c=3, c_to_i=1, c_to_c=2, i_to_i=2).items():
    assert result['intervals'][name] == wilson(count, 8)
  assert (result['intervals']['fix_rate'], result['intervals']['break_rate']) == (wilson(3, 5), wilson(1, 3))


def test_three_attempts_are_compared_from_the_first_to_the_last():
  result = ledger(np.array([[W, C, W], [W, W, C], [C, W, C], [W, C, C]]))
  assert [result[f'acc_t{i}'] for i in (1, 2, 3)] == [1 / 4, 2 / 4, 3 / 4]
  assert (result['i_to_c'], result['c_to_i'], result['delta']) == (2 / 4, 0, 2 / 4)


def test_delta_is_gains_minus_losses_exactly():
  rng = np.random.default_rng(0)
  for n in range(1, 60):
    result = ledger(rng.choice([W, C, U, T], (n, 2)))
    gains, losses, delta = (Fraction(result[name]).limit_denominator(1000) for name in ('i_to_c', 'c_to_i', 'delta'))
    assert delta == gains - losses
    assert n % delta.denominator == 0
    assert delta == Fraction(result['acc_t2']).limit_denominator(1000) - Fraction(result['acc_t1']).limit_denominator(
      1000
    )


def test_host_failures_alone_are_refused():
  with pytest.raises(ValueError, match='no graded rows'):
    ledger(np.full((3, 2), E))


@pytest.mark.parametrize('count, n', [(0, 10), (10, 10), (1, 1), (3, 8), (499, 1000)])
def test_wilson_bounds_solve_the_score_equation(count, n):
  # The bounds are the p with (share - p)^2 = z^2 p (1 - p) / n.
  share, z = count / n, 1.959963984540054
  expected = np.sort(np.roots([1 + z**2 / n, -2 * share - z**2 / n, share**2]).real)
  result = wilson(count, n)
  np.testing.assert_allclose(result, expected, atol=1e-7)
  assert 0 <= result[0] <= share + 1e-12
  assert share - 1e-12 <= result[1] <= 1


def test_wilson_agrees_with_published_numbers():
  # Newcombe (1998), Statistics in Medicine 17, table I: 81/263, 15/148, 0/20, 1/29.
  for (count, n), interval in {
    (81, 263): (0.2553, 0.3662),
    (15, 148): (0.0624, 0.1605),
    (0, 20): (0.0, 0.1611),
    (1, 29): (0.0061, 0.1718),
  }.items():
    np.testing.assert_allclose(wilson(count, n), interval, atol=5e-5)


TABLE = np.array([[W, W], [W, C], [C, W], [C, C]])  # both wrong, gained, lost, both right


@pytest.mark.parametrize(
  'n, joint', [(150, [0.45, 0.25, 0.1, 0.2]), (500, [0.36, 0.058, 0.014, 0.568]), (500, [0.5, 0.004, 0.002, 0.494])]
)
def test_delta_interval_covers_the_truth_95_times_in_100(n, joint):
  # With 1,000 runs the share has a standard error of 0.7 points. The second is the paper's table, the third has all but
  # no changes.
  rng, covered = np.random.default_rng(1), 0
  for _ in range(1000):
    low, high = ledger(TABLE[rng.choice(4, n, p=joint)])['intervals']['delta']
    covered += low <= joint[1] - joint[2] <= high
  assert abs(covered / 1000 - 0.95) < 0.02


def test_intervals_cover_where_problems_have_several_conversations():
  # A problem's conversations are alike, so rows alone would promise far too much.
  rng, covered, naive = np.random.default_rng(2), dict(delta=0, acc_t1=0), 0
  for _ in range(250):
    right = rng.beta(0.4, 0.6, 80)  # of a problem's first attempts
    first = rng.random((80, 8)) < right[:, None]
    gains = rng.random((80, 8)) < rng.beta(0.3, 0.7, 80)[:, None]
    last = first | gains
    verdicts = np.stack([first, last], axis=-1).reshape(-1, 2).astype(np.int8)
    result = ledger(verdicts, np.repeat(np.arange(80), 8))
    assert result['mcnemar_p'] is None
    for name, truth in dict(delta=0.6 * 0.3, acc_t1=0.4).items():
      low, high = result['intervals'][name]
      covered[name] += low <= truth <= high
    low, high = ledger(verdicts)['intervals']['acc_t1']
    naive += low <= 0.4 <= high
  # 250 runs: a standard error of 1.4 points.
  assert all(abs(count / 250 - 0.95) < 0.03 for count in covered.values()), covered
  assert naive / 250 < 0.8


@pytest.mark.parametrize('n', [5, 164, 2048])
def test_no_change_at_all_is_not_certainty(n):
  low, high = ledger(np.array([[C, C], [W, W]] * n))['intervals']['delta']
  assert -4 / n < low < -0.3 / n
  assert 0.3 / n < high < 4 / n


def test_mcnemar_is_the_exact_binomial_test():
  for gains in range(12):
    for losses in range(12):
      n = gains + losses
      # Every outcome of n fair coins that is no more likely than this one.
      chances = [Fraction(math.comb(n, k), 2**n) for k in range(n + 1)]
      expected = sum(chance for chance in chances if chance <= chances[gains])
      assert mcnemar(gains, losses) == pytest.approx(float(expected), abs=1e-15)


# What a step and a run show.


def update_metrics(**more):
  return dict(
    reward_A=np.array([0.5, 4.0], np.float32),
    kl_A=np.array([0.25, 0.125], np.float32),
    loss_A=np.array([1.5, -2.0], np.float32),
    gradient_norm=np.float32(3.0),
    mismatch=np.float32(0.0),
    rejected=np.int32(2),
    **more,
  )


def step_record(**more):
  return metrics.step_record(
    7,
    stage(),
    np.array([[C, C], [C, C], [W, C], [W, C], [U, C], [C, E], [U, T], [W, W]], np.int8),
    np.array([[1, 1], [2, 1], [3, 3], [1, 3], [1, 3], [1, 1], [3, 1], [1, 1]], np.int8),
    np.array([[2, 3], [3, 1]] * 4, np.int32),
    update_metrics(**more),
    1e-4,
    dict(rollout=1.0),
  )


def test_step_record_of_a_batch_counted_by_hand():
  assert (Stop.END_OF_TURN, Stop.OTHER, Stop.BUDGET) == (1, 2, 3)
  assert step_record() == dict(
    step=7,
    stage='stage2',
    reward=[0.5, 4.0],
    accuracy=[0.375, 0.625],
    i_to_c=3 / 7,  # of the rows that were graded: the failed grader's row is neither a gain nor a loss
    c_to_i=0.0,
    kl=[0.25, 0.125],
    truncated=[0.25, 0.375],
    other_stop=[0.125, 0.0],
    verdicts=dict(wrong=[2 + 1, 1], correct=[3, 5], unparsed=[2, 0], timeout=[0, 1], error=[0, 1]),
    unparsed=[0.25, 0.0],
    timeouts=[0.0, 0.125],
    errors=[0.0, 0.125],
    loss=[1.5, -2.0],
    gradient_norm=3.0,
    mismatch=0.0,
    rejected=2,
    learning_rate=1e-4,
    tokens=[20, 16],
    seconds=dict(rollout=1.0),
  )


def test_step_record_holds_gradient_norms_by_attempt_when_the_update_gives_them():
  assert step_record(gradient_norm_A=np.array([1.0, 2.0], np.float32))['attempt_gradient_norm'] == [1.0, 2.0]


def test_on_policy_and_offline_first_attempts_are_counted_apart():
  verdicts = np.array([[W, C], [W, W], [C, W], [C, E], [C, C], [W, C], [W, C], [U, W]], np.int8)
  stops = np.array([[3, 1]] * 4 + [[1, 1]] * 3 + [[1, 3]], np.int8)
  changed = np.array([[1, 1], [1, 0]] * 4, bool)
  assert metrics.by_first_attempt(verdicts, stops, changed, 2, 0) == {}, 'all are on-policy'
  both = metrics.by_first_attempt(verdicts, stops, changed, 2, 2)
  assert list(both) == ['on_policy', 'offline']
  own, offline = both.values()
  counted = ('conversations', 'accuracy', 'i_to_c', 'c_to_i', 'delta', 'truncated', 'unparsed', 'i_to_i_same')
  assert [offline[name] for name in counted] == [4, [0.5, 0.25], 1 / 3, 1 / 3, 0.0, [1.0, 0.0], [0.0, 0.0], 1 / 3]
  assert [own[name] for name in counted] == [4, [0.25, 0.75], 0.5, 0.0, 0.5, [0.0, 0.25], [0.25, 0.0], 0.25]
  assert (own['delta_se'], offline['delta_se']) == (0.0, pytest.approx(0.75))
  [(name, alone)] = metrics.by_first_attempt(verdicts[:4], stops[:4], changed[:4], 2, 2).items()
  assert name == 'offline' and alone == offline, 'where all problems are offline'


def test_training_return_adds_the_rewards_of_all_attempts():
  assert Progress().after_step(step_record(), in_last_stage=True, window=3).recent_returns == (4.5,)


def evaluations():
  base = ledger(np.array([[C, C]] * 3 + [[C, W]] + [[W, C]] * 2 + [[W, W]] * 4))
  final = ledger(np.array([[C, C]] * 5 + [[W, C]] * 4 + [[W, W]]))
  return dict(base=dict(greedy=base, sampled=final, seconds=3.0), final=dict(greedy=final))


def test_table_shows_every_policy_and_decoding_in_percent():
  lines = plain_text.table(evaluations()).split('\n')
  assert lines[0].split() == ['policy', 'decoding', 'acc@t1', 'acc@t2', 'delta', '95', '%', 'i->c', 'c->i', 'n']
  assert set(lines[1]) == {'-', ' '}
  low, high = (100 * bound for bound in evaluations()['base']['greedy']['intervals']['delta'])
  assert lines[2].split() == [
    *('base', 'greedy', '40.0', '50.0', '+10.0', f'{low:+.1f}', '..', f'{high:+.1f}'),
    *('20.0', '10.0', '10'),
  ]
  assert [line.split()[:5] for line in lines[3:]] == [
    ['base', 'sampled', '50.0', '90.0', '+40.0'],
    ['final', 'greedy', '50.0', '90.0', '+40.0'],
  ]
  assert len({len(line) for line in lines}) == 1
  failed = ledger(np.array([[C, C], [C, Verdict.ERROR]]))
  last = plain_text.table(dict(mine=dict(greedy=failed))).split('\n')[-1]
  assert last.startswith('mine, greedy: 1 more conversations')


def test_evaluation_line_shows_first_and_last_accuracy():
  expected = 'base: greedy 40.0 -> 50.0 % (delta +10.0), sampled 50.0 -> 90.0 % (delta +40.0)'
  assert plain_text.evaluation_line('base', evaluations()['base']) == expected


# The learning rate and the optimizer.


@pytest.mark.parametrize(
  'changes, expected',
  [
    (dict(schedule='constant'), [0.5] * 10),
    (dict(schedule='linear'), [0.5 * (1 - i / 10) for i in range(10)]),
    (dict(schedule='cosine'), [0.25 * (1 + math.cos(math.pi * i / 10)) for i in range(10)]),
    (dict(schedule='constant', warmup_steps=4), [0.125, 0.25, 0.375] + [0.5] * 7),
    (dict(schedule='linear', warmup_steps=2), [0.25, 0.5] + [0.5 * (1 - i / 8) for i in range(8)]),
    (
      dict(schedule='cosine', warmup_steps=5),
      [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, *(0.25 * (1 + math.cos(math.pi * i / 5)) for i in range(1, 5))],
    ),
    (dict(schedule='linear', warmup_steps=10), [0.05 * (i + 1) for i in range(10)]),
  ],
)
def test_learning_rates_of_a_stage_by_hand(changes, expected):
  result = [optim.learning_rate(stage(**changes), i) for i in range(10)]
  np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_optimizer_clips_before_its_moments_and_decays_matrices_alone():
  run = tiny.run_config(**{'optim.clip_norm': 1.0, 'optim.weight_decay': 0.5})
  config = tiny.decoder_config('qwen2', vocab=8)
  table = weights.weight_table(config)
  optimizer = optim.make_optimizer(run.optim, table)
  params = table.tree(lambda weight: np.ones(weight.shape(table.sizes), np.float32))
  gradient = table.tree(lambda weight: np.full(weight.shape(table.sizes), 100.0, np.float32))
  with jax.numpy_dtype_promotion('standard'):  # optax raises a float to an integer count
    direction, state = jax.jit(lambda gradient: optimizer.update(gradient, optimizer.init(params), params))(gradient)
  entries = sum(leaf.size for leaf in jax.tree.leaves(params))
  mu = optax.tree_utils.tree_get(state, 'mu')
  np.testing.assert_allclose(mu['embed'], (1 - run.optim.b1) / math.sqrt(entries), rtol=1e-4)
  np.testing.assert_allclose(direction['embed'], 1.5, rtol=1e-4)
  np.testing.assert_allclose(direction['layers']['q'], 1.5, rtol=1e-4)
  np.testing.assert_allclose(direction['final_norm'], 1.0, rtol=1e-4)
  np.testing.assert_allclose(direction['layers']['q_bias'], 1.0, rtol=1e-4)


# The weight table.


@pytest.mark.parametrize(
  'layout, groups',
  [
    ('D', [['D']]),
    ('V D', [['V'], ['D']]),
    ('(H C)', [['H', 'C']]),
    ('(H C) D', [['H', 'C'], ['D']]),
    ('D (H C)', [['D'], ['H', 'C']]),
    ('(K C) (H D) F', [['K', 'C'], ['H', 'D'], ['F']]),
  ],
)
def test_brackets_of_a_layout_are_flattened_axes(layout, groups):
  weight = weights.weight_table(tiny.decoder_config('llama')).weights[0]
  assert dataclasses.replace(weight, hf=layout).hf_groups == groups


@pytest.mark.parametrize('family', ['llama', 'qwen2'])
def test_import_and_export_of_every_weight_are_inverse(family):
  config = tiny.decoder_config(family, vocab=10)
  sizes = config.sizes()
  for weight in weights.weight_table(config).weights:
    file = np.arange(math.prod(weight.hf_shape(sizes))).reshape(weight.hf_shape(sizes))
    ours = weight.from_hf(file, sizes)
    assert ours.shape == weight.shape(sizes)[weight.per_layer :]
    back = weight.to_hf(ours, sizes)
    np.testing.assert_array_equal(back, file)


def test_a_file_s_rows_are_heads_by_head_width():
  config = tiny.decoder_config('llama', vocab=10)
  table = {weight.path[-1]: weight for weight in weights.weight_table(config).weights}
  sizes = config.sizes()
  q = np.arange(16 * 16).reshape(16, 16)
  assert table['q'].from_hf(q, sizes)[3, 2, 1] == q[2 * 4 + 1, 3]
  assert table['o'].from_hf(q, sizes)[2, 1, 3] == q[3, 2 * 4 + 1]
  down = np.arange(16 * 32).reshape(16, 32)
  assert table['down'].from_hf(down, sizes)[5, 3] == down[3, 5]


def test_the_table_has_the_biases_and_the_head_that_a_family_has():
  paths = {
    family: {weight.path[-1] for weight in weights.weight_table(tiny.decoder_config(family)).weights}
    for family in ('llama', 'qwen2')
  }
  assert paths['llama'] - paths['qwen2'] == {'head'}
  assert paths['qwen2'] - paths['llama'] == {'q_bias', 'k_bias', 'v_bias'}


# Offline first attempts.


def test_offline_pool_goes_round():
  problems = tuple(Problem(str(i), '', {}) for i in range(5))
  pool = offline.OfflinePool(problems, np.arange(5 * 2 * 3).reshape(5, 2, 3), each_step=2)
  taken = [pool.take(step) for step in range(5)]
  assert [[int(problem.id) for problem in chosen] for chosen, _ in taken] == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]]
  for chosen, first in taken:
    assert first.shape == (2, 2, 3)
    np.testing.assert_array_equal(first, pool.first[[int(problem.id) for problem in chosen]])


def test_more_than_the_pool_repeats_it():
  pool = offline.OfflinePool(
    tuple(Problem(str(i), '', {}) for i in range(2)), np.arange(4).reshape(2, 1, 2), each_step=5
  )
  assert [problem.id for problem in pool.take(0)[0]] == list('01010')


@pytest.mark.parametrize('fraction, count', [(0.0, 0), (0.25, 2), (0.3, 2), (0.45, 4), (1.0, 8)])
def test_offline_count_is_the_nearest_whole_number_of_problems(fraction, count):
  assert offline.offline_count(dataclasses.replace(stage(), offline_first=fraction), 8) == count
