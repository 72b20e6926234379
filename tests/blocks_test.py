"""Each block of README and docs: what can run is run, commands are parsed, and of the rest it is said why."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib

import pytest

from score_jax import cli
from score_jax.config import from_config_dict, load_config
from score_jax.core_types import Stop, Verdict
from score_jax.reporting import rows
from score_jax.reporting.rows import Attempt, Row

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
# Written by experiments.main and experiments.recorded: commands of the versions that ran, conversations, figures.
DRAWN = {'results.md', 'results_quickstart.md', 'results_real.md'}
_FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)

# Blocks that are no program of the user's: page and first words -> what they are.
NO_PROGRAM = {
  'architecture.md tasks problem': 'a picture in letters',
  'architecture.md configs/ what': 'a tree of folders',
  'architecture.md B rows': 'equations',
  'howto_serve.md FROM ./mine.gguf': "a file of Ollama's",
  'models.md error: It': 'what a command prints',
  'presets.md policy decoding': 'what a command prints',
  'report.md runs/NAME/config.json the': 'a tree of folders',
  'sandbox.md grader process': 'a picture in letters',
  'tasks.md {"question": "What': 'a line of data',
}
# Programs of others that are not here: first word of a command -> what it needs.
NOT_HERE = {
  'hf': 'the hub, with a token',
  'vllm': 'vLLM on a GPU',
  'llama-server': 'llama.cpp',
  'llama.cpp/convert_hf_to_gguf.py': 'llama.cpp',
  'gcloud': "Google's cloud",
  'docker': 'Docker, and a registry',
}
# Python that cannot run here: page and first words -> what it needs.
NOT_RUN = {'howto_serve.md from openai': 'a server'}
# Few and small steps of the bundled base.
TINY = [
  *('--config.stages.stage1.steps=1', '--config.stages.stage2.steps=1', '--config.optim.warmup_steps=0'),
  *('--config.eval.problems=8', '--config.batch.problems=4', '--config.batch.samples=2'),
]


@dataclasses.dataclass(frozen=True)
class Block:
  """A fenced block of a page."""

  page: str
  language: str
  text: str

  @property
  def key(self):
    return ' '.join([self.page, *self.text.split()[:2]])

  @property
  def lines(self):
    """Its lines as a shell reads them: joined where they end in a backslash, without comments and ellipses."""
    words = (shlex.split(line, comments=True) for line in self.text.replace('\\\n', ' ').splitlines())
    return [[word for word in line if not word.endswith('...')] for line in words if line]


def blocks():
  return [
    Block(path.name, match[2], textwrap.dedent(match[3]))
    for path in PAGES
    if path.name not in DRAWN
    for match in _FENCE.finditer(path.read_text())
  ]


SHELL = [block for block in blocks() if not block.language and block.key not in NO_PROGRAM]
PYTHON = {block.key: block for block in blocks() if block.language == 'python'}


def command(words):
  """(module, arguments) of a command of this repository in a block's line, None if it is another's."""
  stands = dict(CONFIG='quickstart')
  words = [
    '='.join([name, *(stands.get(value, value) for value in rest)]) for name, *rest in (w.split('=', 1) for w in words)
  ]
  if words[0] == 'score-jax':
    return cli.COMMANDS.get(words[1], words[1]), words[2:]
  if words[:2] == ['python', '-m']:
    return words[2], words[3:]
  if words[0].startswith('--config.'):  # fields alone
    return 'score_jax.main', ['--config=quickstart', *words]
  if words[:1] == ['bash'] and '--' in words and '--config=' not in words:
    given = words[words.index('--') + 1 :]
    return 'score_jax.main', ([] if any(word.startswith('--config=') for word in given) else ['--config=score']) + given
  return None


def test_every_block_is_of_a_known_kind():
  assert {block.language for block in blocks()} <= {'', 'bash', 'python'}
  assert set(NO_PROGRAM) <= {block.key for block in blocks()} and set(NOT_RUN) <= set(PYTHON)
  first = {line[1] if line[0] == 'python' and line[1] != '-m' else line[0] for block in SHELL for line in block.lines}
  unknown = {word for word in first - set(NOT_HERE) if not word.startswith('--config.')}
  assert unknown == {'score-jax', 'python', 'bash', 'pip'}, 'say in NO_PROGRAM or NOT_HERE what the others are'
  assert set(NOT_HERE) <= first


def test_commands_are_parsed_by_the_commands(tmp_path):
  """By their own flags and fields: what is not known is refused, and so is a configuration that contradicts itself."""
  asked = [(block.page, parsed) for block in SHELL for line in block.lines if (parsed := command(line))]
  run = [sys.executable, str(ROOT / 'tests/rigs/parse_commands.py')]
  environment = os.environ | dict(PYTHONPATH=str(ROOT))
  wrong = ['score_jax.main', ['--config=quickstart', '--config.optim.rate=1']]
  given = json.dumps([wrong, *(parsed for _, parsed in asked)])
  done = subprocess.run(run, input=given, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
  refused, *told = json.loads(done.stdout)
  assert 'config.optim.rate is not a field' in refused
  assert not [(page, *parsed, error) for (page, parsed), error in zip(asked, told, strict=True) if error]
  assert len(asked) > 50


def test_scripts_have_the_flags_that_they_are_given():
  scripts = [line for block in SHELL for line in block.lines if line[0] == 'bash']
  for _, script, *words in scripts:
    text = (ROOT / script).read_text()
    for word in words[: words.index('--')] if '--' in words else words:
      assert word.partition('=')[0].lstrip('-') in text, f'{script} {word}'
  assert len(scripts) > 10


def test_extras_that_are_installed_exist():
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
  named = {
    name
    for path in PAGES
    for match in re.findall(r"install[^`\n]*\.?\[([\w,-]+)\]'", path.read_text())
    for name in match.split(',')
  }
  assert named and named <= set(extras)
  listed = re.search(r'Extras: (.*?)\. ', (ROOT / 'docs/presets.md').read_text(), re.DOTALL)[1]
  assert set(re.findall('`(.*?)`', listed)) == set(extras) - {'docs', 'test'}


# What runs in a moment.


def run(block, folder, monkeypatch):
  """The names that a block of Python leaves."""
  monkeypatch.chdir(folder)
  names = {'__name__': 'block'}
  exec(block.text, names)
  return names


def test_the_graders_grade_what_pages_show(tmp_path, monkeypatch, capsys):
  names = run(PYTHON['math.md from score_jax.graders'], tmp_path, monkeypatch)
  shown = PYTHON['math.md from score_jax.graders'].text.strip().splitlines()[-1]
  expression, _, comment = shown.partition('  # ')
  assert comment == f'Verdict.{eval(expression, names).name}'
  run(PYTHON['sandbox.md from score_jax.graders'], tmp_path, monkeypatch)
  assert 'Landlock' in capsys.readouterr().out


def test_a_configuration_of_ones_own_is_one(tmp_path):
  (tmp_path / 'mine.py').write_text(PYTHON['presets.md from score_jax.configs'].text)
  config = from_config_dict(load_config(tmp_path / 'mine.py'))
  assert [stage.bonus for stage in config.stage_runs] == [(0.0, 0.0), (0.0, 5.0)] * 2


def test_rows_are_counted_again(tmp_path, monkeypatch, capsys):
  wrong, right = (Attempt('', '', verdict, Stop.END_OF_TURN, 1, -1.0) for verdict in (Verdict.WRONG, Verdict.CORRECT))
  pairs = [(wrong, right), (wrong, wrong), (right, right), (right, wrong)]
  (tmp_path / 'runs/quickstart/rows').mkdir(parents=True)
  made = [Row(f'p{i}', 'q', {}, pair, 0.0, 'sampled', 0) for i, pair in enumerate(pairs)]
  rows.write(tmp_path / 'runs/quickstart/rows/final.jsonl.gz', made)
  run(PYTHON['report.md import gzip,'], tmp_path, monkeypatch)
  assert capsys.readouterr().out == '0.25\n'


def test_a_reward_and_a_task_of_a_file_are_what_the_page_says(tmp_path, monkeypatch):
  grade = run(PYTHON['rewards.md # my_rewards.py'], tmp_path, monkeypatch)['grade']
  assert [grade(text, {'answer': '7'}) for text in ('\\boxed{7}', '\\boxed{8}', '7')] == [1.0, 0.1, 0.0]
  problems = run(PYTHON['rewards.md # my_task.py'], tmp_path, monkeypatch)['problems']
  assert (len(problems('train', 0)), len(problems('heldout', 0))) == (900, 100)


def test_the_loop_that_starts_a_run_again_ends_with_it():
  (block,) = [block for block in blocks() if block.language == 'bash']
  codes = [
    subprocess.run(['bash', '-c', block.text, 'retry', one], check=False).returncode for one in ('true', 'false')
  ]
  assert codes == [0, 1]


# What takes longer: the bundled base, a step a stage.

ORDER = ('presets.md pip install', 'presets.md score-jax train', 'report.md python -m', 'README.md score-jax train')


@pytest.mark.slow
def test_commands_on_the_bundled_base_run_one_after_another(tmp_path):
  """Of some blocks all commands that need neither hub nor pod, as they stand but for fewer and smaller steps."""
  (tmp_path / 'my_rewards.py').write_text('def grade(response, row):\n  return float(len(response) < 20)\n')
  (tmp_path / 'examples').symlink_to(ROOT / 'examples')
  (tmp_path / 'answers.jsonl').write_text('{"id": "1", "answer": "7", "response": "It is 7."}\n')
  ran = []
  for key in ORDER:
    for block in (block for block in SHELL if block.key == key):
      for module, arguments in filter(None, map(command, block.lines)):
        if re.search('gsm8k|Qwen/|--push|--topology|wandb|=DIR|runs/a ', ' '.join([*arguments, ''])):
          continue
        tiny = TINY if module in ('score_jax.main', 'score_jax.evaluate') else []
        if module == 'score_jax.main' and not any(word.startswith('--workdir') for word in arguments):
          tiny = [*tiny, f'--workdir=runs/{arguments[0].partition("=")[2]}']
        environment = os.environ | dict(PYTHONPATH=str(ROOT))
        words = [sys.executable, '-m', module, *arguments, *tiny]
        done = subprocess.run(
          words,
          cwd=tmp_path,
          env=environment,
          input='reach 10 with 1 2 7 8\n',
          capture_output=True,
          text=True,
          check=False,
        )
        assert done.returncode == 0, (module, arguments, done.stderr[-2000:])
        ran.append(module.rpartition('.')[2])
  assert set(ran) >= {'main', 'evaluate', 'report', 'export', 'chat', 'grade'}


@pytest.mark.slow
def test_python_that_trains_runs(tmp_path, monkeypatch, capsys):
  names = run(PYTHON['presets.md import score_jax'], tmp_path, monkeypatch)
  assert names['run'].model.joinpath('config.json').is_file()
  assert re.search(r'^policy +decoding', capsys.readouterr().out, re.MULTILINE)
