"""Suites: budgets, jobs that are stopped and resumed, figures against plain numpy, a whole one in miniature."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments import counting, plan, results, runner, summary
from experiments.counting import Answers
from experiments.plan import Job
from score_jax.core_types import Stop, Verdict
from score_jax.errors import ConfigError, DataError
from score_jax.reporting import rows as report_rows

ROOT = pathlib.Path(__file__).parent.parent
COUNTDOWN = 'experiments/suites/countdown.py'


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
  monkeypatch.chdir(ROOT)


# The plan.


def test_methods_of_the_benchmark_have_one_budget_or_say_why():
  suite = plan.read(COUNTDOWN)
  result = plan.budgets(suite)
  score = result['score']
  # 204 steps of 128 problems x 8 samples, by hand.
  assert dataclasses.astuple(score) == (208_896, 417_792, 204, 208_896, 417_792)
  for name, spent in result.items():
    method = suite.methods[name]
    assert spent.updates == 204 or not method.shown
    if method.shown and not method.note:
      assert (spent.conversations, spent.attempts) == (score.conversations, score.attempts), name
  assert result['single_turn'].trained == result['multi_turn_sum'].trained == score.trained
  assert result['offline_first'].trained == score.trained - 102 * 128 * 8
  assert result['star_stage2'].conversations == score.conversations, 'Stage I counts'
  assert len(suite.seeds) == 3 and suite.fields['eval.problems'] >= 4000
  assert {dataclasses.astuple(plan.run_config(suite, m).selection) for m in suite.methods.values()
          if m.config != 'three_attempts'} == {(2048, (1.0, 1.0), (0.0, 10.0))}  # fmt: skip


def test_methods_on_a_real_model_have_the_budget_that_was_run():
  suite = plan.read('experiments/suites/gsm8k_coder_0p5b.py')
  result = plan.budgets(suite)
  # 32 steps of 32 problems x 8 samples; Stage I trains attempt 1 of a quarter, Stage II of half of the problems.
  assert (result['score'].conversations, result['score'].updates) == (8192, 32)
  assert result['score'].trained == 11 * 8 * (8 + 32) + 21 * 8 * (16 + 32)
  for name in ('single_turn', 'multi_turn_sum', 'multi_turn_final', 'no_stage1', 'no_shaping'):
    assert (result[name].conversations, result[name].updates) == (8192, 32), name


def test_methods_on_mbpp_have_the_budgets_that_were_run():
  suite = plan.read('experiments/suites/mbpp_coder_0p5b.py')
  result = plan.budgets(suite)
  assert (result['pair_sft'].conversations, result['pair_sft'].updates) == (2816, 20)
  assert (result['star_plus'].conversations, result['star_plus'].updates) == (16_896, 48)
  for name in ('single_turn', 'multi_turn_sum', 'multi_turn_final', 'stage1_alone'):
    assert (result[name].conversations, result[name].updates) == (23_040, 90), name
  for name in ('score', 'no_stage1', 'no_shaping'):  # after Pair-SFT
    assert (result[name].conversations, result[name].updates) == (2816 + 17_920, 90), name
  alone = plan.run_config(suite, suite.methods['single_turn'])
  assert [(stage.offline_first, stage.optim.warmup_steps) for stage in alone.stage_runs] == [(0.0, 5)]
  assert alone.loss.kl_form == 'k1_togo'


def test_designs_on_mbpp_with_all_asserts_are_those_that_were_run():
  suite = plan.read('experiments/suites/mbpp_coder_0p5b_all_asserts.py')
  assert {(one.conversations, one.updates) for one in plan.budgets(suite).values()} == {(23_040, 90)}
  presets = 'experiments/results/mbpp_coder_0p5b/presets/mbpp_coder_0p5b_90.py.txt'
  for name, words in (('score_f', 'solve it afresh'), ('score_h', 'without looking at the one above'), ('score', '#')):
    run = plan.run_config(suite, suite.methods[name])
    assert words in run.task.instruction and run.task.mbpp.tests == 0
    asked = [extra for extra in suite.extras.values() if name in extra.methods]
    assert [extra.flags[1:] for extra in asked] == [() if words == '#' else (f'--instruction={run.task.instruction}',)]
    assert words == '#' or run.task.instruction in ''.join(pathlib.Path(presets).read_text().split("'\n  '"))
  stages = {name: plan.run_config(suite, suite.methods[name]).stage_runs for name in ('score', 'score_g', 'no_stage1')}
  assert [(s.steps, s.bonus[1], s.kl_weights[0], s.kl_target) for part in stages.values() for s in part] == [
    *[(12, 0.0, 0.5, ()), (78, 3.0, 0.01, ())],
    *[(30, 3.0, 0.5, ()), (60, 3.0, 0.01, ())],
    (90, 3.0, 0.01, ()),
  ]


def test_another_budget_needs_a_reason(tmp_path):
  text = pathlib.Path(COUNTDOWN).read_text()
  file = tmp_path / 'suite.py'
  file.write_text(text.replace("note='it trains one attempt", "remark='it trains one attempt"))
  with pytest.raises(ConfigError, match=f"--suite={file}: .*unexpected keyword argument 'remark'"):
    plan.read(str(file))
  file.write_text(text.replace("    note='as many conversations, of three attempts',\n", '').replace(
    "      note='as many conversations, of three attempts',\n", ''))  # fmt: skip
  with pytest.raises(ConfigError, match='methods.three_attempts has 626,688 attempts where the reference has 417,792'):
    plan.budgets(plan.read(str(file)))


def test_jobs_come_after_what_they_need():
  suite = plan.read(COUNTDOWN, ['optim.learning_rate=0.5', 'task.instruction=Again.'])
  only = plan.chosen(suite, ['star_stage2', 'base'])
  assert only == ('base', 'star_stage2', 'stage1')
  jobs = plan.jobs(suite, pathlib.Path('work'), only, (1,), base='')
  assert [(job.name, job.needs) for job in jobs] == [
    ('base', ()),
    ('stage1/seed1', ('base',)),
    ('star_stage2/seed1', ('base', 'stage1/seed1')),
  ], 'the evaluation of the base has the first seed alone'
  command = jobs[2].command
  assert '--config.init_from=work/runs/stage1/seed1' in command and '--config.seed=1' in command
  assert '--config.model.path=work/base/hf' in command
  assert {'--config.optim.learning_rate=0.5', '--config.task.instruction=Again.'} <= set(command)
  assert plan.jobs(suite, pathlib.Path('work'), only, (1,), base='mine')[0].needs == ()
  with pytest.raises(ConfigError, match="--only names 'scroe'"):
    plan.chosen(suite, ['scroe'])


# The runner.


def job(name, folder, code, *needs, **more):
  command = (sys.executable, '-c', f'import pathlib, sys, time\nout = pathlib.Path({str(folder)!r})\n{code}')
  return Job(name, command, folder, ('done.txt',), needs, **more)


WRITES = "out.mkdir(parents=True, exist_ok=True); (out / 'done.txt').write_text('')"


def run(jobs, work, at_once=2, seconds=0.0):
  lines = []
  outcome = runner.run(jobs, work, at_once=at_once, seconds=seconds, environment=dict(os.environ), say=lines.append)
  return outcome, lines


def test_a_failed_job_is_named_and_stops_only_those_that_need_it(tmp_path):
  jobs = [
    job('bad', tmp_path / 'bad', "print('the reason'); sys.exit(65)"),
    job('empty', tmp_path / 'empty', 'pass'),
    job('late', tmp_path / 'late', f'{WRITES}; sys.exit(70)'),
    job('good', tmp_path / 'good', WRITES),
    job('after', tmp_path / 'after', WRITES, 'good'),
    job('blocked', tmp_path / 'blocked', WRITES, 'bad'),
    job('further', tmp_path / 'further', WRITES, 'blocked'),
  ]
  outcome, lines = run(jobs, tmp_path)
  assert outcome == runner.Outcome(('good', 'after'), ('bad', 'empty', 'late'), ('blocked', 'further'), ())
  assert any('bad failed (exit code 65): the reason' in text for text in lines)
  assert any('empty failed (its outputs are missing)' in text for text in lines)
  # What is done is not run again; what failed is tried again.
  again, lines = run(jobs, tmp_path)
  assert again == outcome and not any(text.startswith(('good', 'after')) for text in lines)


def test_a_piece_ends_in_time_and_the_next_goes_on(tmp_path):
  waits = """
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
out.mkdir(exist_ok=True)
while not (out.parent / 'second').exists(): time.sleep(0.05)
(out / 'done.txt').write_text('')
"""
  jobs = [job('slow', tmp_path / 'slow', waits), job('then', tmp_path / 'then', WRITES, 'slow')]
  outcome, lines = run(jobs, tmp_path, seconds=2.0)
  assert outcome.left == ('slow', 'then') and not outcome.failed and 'slow was stopped' in lines
  (tmp_path / 'second').touch()
  outcome, _ = run(jobs, tmp_path)
  assert outcome.done == ('slow', 'then')
  record = runner.Records(tmp_path).read('slow')
  assert record['pieces'] == 2 and record['seconds'] >= 2.0 and record['done']


def test_jobs_are_spread_over_gpus_and_each_sees_one(tmp_path):
  # Each waits for as many as run at once, so that none can run after another.
  code = f"""
import os
pathlib.Path({str(tmp_path)!r}, out.name + '.gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])
while len(list(pathlib.Path({str(tmp_path)!r}).glob('*.gpu'))) < 4: time.sleep(0.02)
{WRITES}"""
  jobs = [job(f'job{i}', tmp_path / f'job{i}', code) for i in range(4)]
  runner.run(jobs, tmp_path, at_once=4, seconds=30.0, environment=dict(os.environ), gpus=('2', '5'), say=print)
  assert sorted(path.read_text() for path in tmp_path.glob('*.gpu')) == ['2', '2', '5', '5']


def test_what_cannot_be_resumed_begins_afresh_and_a_changed_command_is_refused(tmp_path):
  folder = tmp_path / 'one'
  folder.mkdir()
  (folder / 'half.txt').write_text('')
  fresh = job('one', folder, WRITES, fresh=True)
  assert run([fresh], tmp_path)[0].done == ('one',) and not (folder / 'half.txt').exists()
  changed = dataclasses.replace(fresh, command=(*fresh.command, '--more'))
  with pytest.raises(ConfigError, match='job one in .* was begun with less, and the suite now has --more'):
    run([changed], tmp_path)


def test_jobs_that_share_a_device_share_its_memory():
  assert runner.environment(1, {'A': '1'}) == {'A': '1'}
  assert runner.environment(3, {'A': '1'}) == {
    'A': '1', 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', 'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.300',
  }  # fmt: skip
  assert runner.environment(3, {'XLA_PYTHON_CLIENT_MEM_FRACTION': '.5'})['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '.5'


# The figures.


def made(shape, rates, seed):
  """Answers whose attempts are right at the given rates, alike within a problem."""
  rng = np.random.default_rng(seed)
  S, P = shape
  ease = rng.uniform(size=(1, P, 1))
  return Answers((0.5 * ease + 0.5 * rng.uniform(size=(S, P, len(rates)))) < np.array(rates))


def test_figures_are_those_of_plain_numpy():
  of = dict(a=made((3, 200), (0.4, 0.5), 0), b=made((2, 200), (0.5, 0.5, 0.7), 1))
  result = counting.count(of, 'a')
  for name, answers in of.items():
    first, last = answers.right[:, :, 0], answers.right[:, :, -1]
    expected = dict(
      acc_t1=[sum(map(bool, row)) / 200 for row in first],
      delta=[sum(int(y) - int(x) for x, y in zip(*pair, strict=True)) / 200 for pair in zip(first, last, strict=True)],
      i_to_c=[
        sum(bool(y and not x) for x, y in zip(*pair, strict=True)) / 200 for pair in zip(first, last, strict=True)
      ],
      c_to_i=[
        sum(bool(x and not y) for x, y in zip(*pair, strict=True)) / 200 for pair in zip(first, last, strict=True)
      ],
    )
    for figure, values in expected.items():
      assert result[name][figure]['by_seed'] == pytest.approx(values, abs=1e-6)
      assert result[name][figure]['mean'] == pytest.approx(sum(values) / len(values), abs=1e-6)
      low, high = result[name][figure]['interval']
      assert low < result[name][figure]['mean'] < high
  assert 'acc_t3' in result['b'] and 'difference' not in result['a']
  difference = result['b']['difference']['delta']
  assert difference['mean'] == pytest.approx(result['b']['delta']['mean'] - result['a']['delta']['mean'])
  low, high = difference['interval']
  assert low < difference['mean'] < high


def test_differences_are_paired_by_problem():
  """Two methods that differ on few problems: the paired interval is far shorter than its parts'."""
  rng = np.random.default_rng(0)
  right = rng.uniform(size=(1, 1000, 2)) < 0.5
  other = right.copy()
  other[0, :30, 1] = True
  result = counting.count(dict(a=Answers(right), b=Answers(other)), 'a')

  def width(interval):
    return interval[1] - interval[0]

  paired, alone = result['b']['difference']['delta']['interval'], result['b']['delta']['interval']
  assert width(paired) < 0.4 * width(alone)
  assert paired[0] > 0, 'and so finds what they differ in'


@pytest.mark.slow
@pytest.mark.parametrize('seeds, between, most', [(1, 0.0, 0.99), (3, 0.03, 1.0)])
def test_intervals_cover_the_truth_as_often_as_they_say_and_with_several_seeds_rather_more(seeds, between, most):
  """Delta, whose truth is known: problems with rates of their own, and runs that differ."""
  rng, hits, tries = np.random.default_rng(1), 0, 150
  for _ in range(tries):
    gain = 0.1 + between * rng.standard_normal((seeds, 1))
    rate_P = rng.uniform(0.2, 0.6, (1, 150))
    right = np.stack([rng.uniform(size=(seeds, 150)) < rate_P, rng.uniform(size=(seeds, 150)) < rate_P + gain], axis=2)
    low, high = counting.count(dict(a=Answers(right)), 'a')['a']['delta']['interval']
    hits += low <= 0.1 <= high
  assert 0.9 <= hits / tries <= most


def test_no_change_at_all_is_not_certainty():
  right = np.repeat(np.arange(500)[None, :, None] % 2 == 0, 2, axis=2)
  low, high = counting.count(dict(a=Answers(right)), 'a')['a']['delta']['interval']
  assert -0.02 < low < 0 < high < 0.02


def row(id_, *verdicts):
  attempts = tuple(report_rows.Attempt(str(v), str(v), Verdict(v), Stop.END_OF_TURN, 1, 0.0) for v in verdicts)
  return report_rows.Row(id_, '', {}, attempts, 0.0, 'greedy', 0)


def test_methods_are_counted_on_problems_that_all_were_asked_and_all_were_graded_on():
  a = [row('x', 0, 1), row('y', 1, 1), row('z', 4, 1)]
  b = [row('y', 0, 0), row('z', 1, 1), row('x', 1, 0)]
  of, problems, left_out = counting.answers(dict(a=[a], b=[b]))
  assert (problems, left_out) == (2, 1)
  assert of['a'].right.tolist() == [[[False, True], [True, True]]]
  assert of['b'].right.tolist() == [[[True, False], [False, False]]]
  with pytest.raises(DataError, match='b was asked other problems'):
    counting.answers(dict(a=[a], b=[b[:2]]))


# All of it.

SUITE = """
from experiments.plan import Method
from experiments.plan import Suite

FIELDS = {
  'batch.problems': 4, 'batch.samples': 2, 'stages.stage1.steps': 2, 'stages.stage2.steps': 2, 'eval.problems': 24,
  'selection.problems': 8, 'checkpoint.every': 1, 'optim.warmup_steps': 0, 'report.rows': 0,
}


def get_suite() -> Suite:
  return Suite(
    name='tiny', base_config='none', fields=FIELDS, seeds=(0,), reference='score', paper='a paper',
    methods=dict(
      base=Method(title='Base', kind='evaluate', paper=(52.6, 41.4, -11.2)),
      score=Method(title='SCoRe'),
    ),
  )
"""


def test_where_every_job_failed_the_error_names_the_logs(tmp_path):
  (tmp_path / 'tiny.py').write_text(SUITE)
  (tmp_path / 'config.json').write_text('{"model_type": "of nobody"}')
  folders = [f'--suite={tmp_path / "tiny.py"}', f'--base={tmp_path}', f'--out={tmp_path / "out"}']
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.main', *folders, '--only=score'], capture_output=True, text=True, cwd=ROOT
  )
  assert done.returncode == 65 and 'Traceback' not in done.stderr, done.stderr
  told = f'error: 1 jobs failed: score/seed0 (logs in {tmp_path}/out/work/jobs)'
  assert done.stderr.splitlines()[-1].startswith(told)
  assert 'nothing to count yet' in done.stdout and not (tmp_path / 'out/summary.json').exists()


def test_further_evaluations_are_means_over_seeds_that_are_done(tmp_path):
  suite = plan.read(COUNTDOWN)
  for seed, shift in ((0, 0.0), (1, 0.2), (2, 0.4)):
    curve = [dict(samples=2, tokens=10.0, accuracy=0.1 + shift, interval=[0, 1])]
    ledger = dict(acc_t1=0.1 + shift, acc_t2=0.2 + shift, acc_t3=0.3 + shift, acc_t4=0.4 + shift)
    folder = plan.extra_folder(tmp_path, 'scaling', 'score', seed)
    folder.mkdir(parents=True)
    scaling = dict(curves=dict(parallel=curve, sequential=curve))
    (folder / 'eval.json').write_text(json.dumps(dict(final=dict(greedy=ledger, scaling=scaling))))
    runner.Records(tmp_path).write(f'scaling/score/seed{seed}', dict(done=seed < 2))
  shown = dict(base=(0,), score=(0, 1, 2))
  result = summary._extra(suite, 'scaling', tmp_path, shown, runner.Records(tmp_path))
  assert set(result) == {'score'} and result['score']['seeds'] == 2
  assert result['score']['accuracy'] == pytest.approx([0.2, 0.3, 0.4, 0.5])
  assert result['score']['scaling']['sequential'] == [dict(samples=2.0, tokens=10.0, accuracy=pytest.approx(0.2))]


@pytest.mark.slow
def test_a_suite_stopped_in_a_run_goes_on_to_its_summary_figures_and_page(tmp_path, monkeypatch):
  file, work = tmp_path / 'tiny.py', tmp_path / 'work'
  file.write_text(SUITE)
  suite = plan.read(str(file))
  base = str(ROOT / 'score_jax/assets/countdown_base')
  jobs = plan.jobs(suite, work, tuple(suite.methods), suite.seeds, base)
  fast = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  environment = {**os.environ, 'XLA_FLAGS': fast, 'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'cache')}
  environment['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  metrics = plan.folder_of(work, 'score', 0) / 'metrics.jsonl'
  settings = dict(at_once=2, seconds=0.0, environment=environment, say=print)
  with monkeypatch.context() as patched:
    patched.setattr(runner.signals, 'requested', metrics.exists)
    first = runner.run(jobs, work, **settings)
  steps = len(metrics.read_text().splitlines())
  assert 'score/seed0' in first.left and not first.failed and 1 <= steps < 4
  outcome = runner.run(jobs, work, **settings)
  assert outcome.done == tuple(job.name for job in jobs)
  assert runner.Records(work).read('score/seed0')['pieces'] == 2

  done = dict(base=(0,), score=(0,))
  result, answers = summary.summary(suite, work, done, jobs, 'a machine')
  result = json.loads(json.dumps(result))
  counting.write(tmp_path / 'answers.npz', answers)
  for decoding, again in counting.read(tmp_path / 'answers.npz').items():
    for name, figures in json.loads(json.dumps(counting.count(again, 'score'))).items():
      assert figures == result['methods'][name][decoding], 'every figure can be counted again'
  ledger = json.loads((plan.folder_of(work, 'score', 0) / 'eval.json').read_text())['final']
  for decoding in summary.DECODINGS:
    for figure in ('acc_t1', 'acc_t2', 'delta', 'i_to_c', 'c_to_i'):
      assert result['methods']['score'][decoding][figure]['mean'] == pytest.approx(ledger[decoding][figure], abs=1e-6)
  assert result['methods']['score']['chosen_step'] == [ledger['step']] and not result['missing']
  assert result['methods']['score']['curve']['step'] == [1, 2, 3, 4]

  result['command'] = 'the command'
  page = results.page(result, 'figures', ['deltas'])
  share = f'{100 * ledger["greedy"]["acc_t1"]:.1f}'
  assert f'| SCoRe | {share} |' in page and '| Base | 52.6 | 41.4 | -11.2 |' in page
  assert 'Incomplete' not in page and 'a machine' in page and 'the command' in page
  assert f'score/seed0: {plan.shown(jobs[1].command)}' in results.commands(result).splitlines()
  assert 'what it means' in results.page(result, 'figures', [], 'what it means\n')
  drawing = pytest.importorskip('experiments.drawing')
  pytest.importorskip('matplotlib', reason='needs the extra `report`')
  assert drawing.draw(result, tmp_path / 'figures') == ['deltas', 'edits', 'changes']


@pytest.mark.parametrize(
  ('name', 'page'), [('countdown', 'docs/results.md'), ('quickstart', 'docs/results_quickstart.md')]
)
def test_published_pages_are_those_of_their_summaries_and_those_count_the_answers(name, page):
  out = pathlib.Path('experiments/results') / name
  summary_json, remarks = json.loads((out / 'summary.json').read_text()), (out / 'remarks.md').read_text()
  figures = pathlib.Path('docs/figures') / pathlib.Path(page).stem
  drawn = [figure for figure in results.CAPTIONS if (figures / f'{figure}.png').exists()]
  written = results.page(summary_json, f'figures/{figures.name}', drawn, remarks)
  assert pathlib.Path(page).read_text() == written, f'python -m experiments.main --out={out} --page={page} --redraw'
  for decoding, answers in counting.read(out / 'answers.npz').items():
    for method, result in answers.items():
      told = summary_json['methods'][method][decoding]
      last = told[f'acc_t{result.right.shape[-1]}']
      for figure, right in ((told['acc_t1'], result.right[..., 0]), (last, result.right[..., -1])):
        assert figure['mean'] == pytest.approx(right.mean(), abs=1e-9), (decoding, method)


def test_redraw_needs_a_summary(tmp_path):
  command = [sys.executable, '-m', 'experiments.main', f'--out={tmp_path}', '--redraw']
  ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
  assert ended.returncode == 65 and len(ended.stderr.strip().splitlines()) == 1
  assert f'{tmp_path}/summary.json' in ended.stderr and '--redraw' in ended.stderr
  assert not list(tmp_path.iterdir())
