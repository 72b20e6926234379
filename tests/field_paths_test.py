"""Paths, flags and values as they are typed: each means what it says, or is refused in one line with its code."""

import importlib
import operator
import os
import pathlib
import sys

from absl import flags
from ml_collections import config_flags
import pytest
import tiny

from score_jax import api, cli
from score_jax import config as configs
from score_jax.errors import ConfigError, UserError
from score_jax.graders import user_file
from score_jax.storage import hf
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import chat, templates

# ml_collections reads the file so.
pytestmark = pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')

READERS = {
  '--workdir': lambda path: RunFolder(path).claim({}, {}),
  '--run, init_from': lambda path: RunFolder(path).read_config(),
  '--model': hf.folder_of,
  'chat_template': templates.named,
  'examples': chat.read_examples,
  'reward': lambda path: user_file.find(f'{path}:f', 'config.task.reward'),
  '--config': configs.load_config,
}


@pytest.mark.parametrize('reader', READERS)
@pytest.mark.parametrize(
  'path',
  [
    'file/x', '~no_such_user/x', 'dangling', 'dangling/x', 'loop', 'loop/x', 'y' * 300, '/a' * 3000, '/dev/null/x',
    'http://host/x', 'file:///x', 's3://b/x', 'gs://b', 'gs:/b/x', 'GS://b/x',
  ],
)  # fmt: skip
def test_a_path_that_cannot_be_is_refused_in_a_line(tmp_path, monkeypatch, reader, path):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').write_text('')
  os.symlink('nowhere', 'dangling')
  os.symlink('loop', 'loop')
  before = sorted(os.listdir())
  with pytest.raises((UserError, OSError)) as caught:
    READERS[reader](path)
  told = cli._told(caught.value)
  assert isinstance(told, UserError) and told.exit_code in (65, 78) and '\n' not in str(told)
  assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
  'path', ['rel/run', 'slash/', ' blank ', 'é\u202e🙂', 'in/../out', 'new\nline', '-x', 'C:\\x', '=x']
)
def test_an_odd_workdir_is_the_folder_that_it_names(tmp_path, monkeypatch, path):
  (tmp_path / 'in').mkdir()
  monkeypatch.chdir(tmp_path)
  RunFolder(path).claim({}, dict(seed=1))
  monkeypatch.chdir('/')
  assert RunFolder(tmp_path / path).read_config()['identity'] == dict(seed=1)


def test_an_address_as_a_path_is_no_local_folder():
  with pytest.raises(ConfigError, match='--workdir=gs:/bucket/run: an address must be gs://BUCKET/NAME'):
    RunFolder(pathlib.Path('gs://bucket/run'))


@pytest.mark.parametrize('workdir', ['file/x', 'dangling', 'dangling/x'])
def test_evaluate_refuses_a_folder_below_a_file(tmp_path, monkeypatch, workdir):
  (tmp_path / 'file').write_text('')
  os.symlink('nowhere', tmp_path / 'dangling')
  evaluate = importlib.import_module('score_jax.evaluate')
  for name, value in (('_OUTPUT', ''), ('_NAME', 'x'), ('_WORKDIR', str(tmp_path / workdir))):
    monkeypatch.setattr(evaluate, name, type('Flag', (), dict(value=value)))
  with pytest.raises(ConfigError, match='is no folder; name a path'):
    evaluate._check_outputs()


@pytest.mark.parametrize(
  ('program', 'message'),
  [
    ('x', r'cannot be run: NameError: .* \(line 1\)'),
    ('def get_config():\n  return 1 / 0', r'get_config\(\) raised ZeroDivisionError: .* \(line 2\)'),
    ('def get_config():\n  pass', r'get_config\(\) returned None, not a ConfigDict'),
    ('\x00', 'mine.py'),
    ('import no_such_module', 'no_such_module'),
    ('', r'defines no get_config\(\)'),
  ],
)
def test_a_configuration_that_cannot_be_run_is_one_line(tmp_path, program, message):
  (tmp_path / 'mine.py').write_text(program)
  with pytest.raises(ConfigError, match=message) as caught:
    configs.load_config(tmp_path / 'mine.py')
  assert '\n' not in str(caught.value)


def parsed(monkeypatch, capsys, *arguments):
  """Returns the configuration of a command line, or the line that refuses it."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', None, '', flag_values=values)
  flags.DEFINE_string('workdir', '', '', flag_values=values)
  monkeypatch.setattr(flags, 'FLAGS', values)
  monkeypatch.setattr(sys, 'argv', ['x', '--config=quickstart', *arguments])
  try:
    cli._parse(sys.argv, ())
    return configs.from_config_dict(values.config)
  except ConfigError as error:
    return f'error: {error}'
  except SystemExit as ended:
    assert ended.code == 78
    return capsys.readouterr().err.removesuffix('\n')


TOKENS = 'sampling.attempt_tokens'


@pytest.mark.parametrize(
  ('arguments', 'field', 'value'),
  [
    ([f'--config.{TOKENS}=(8,8)', f'-config.{TOKENS}=(9,9)'], TOKENS, (9, 9)),
    ([f'--config.{TOKENS}', '(8,8)', f'--config.{TOKENS}', '(9,9)'], TOKENS, (9, 9)),
    ([f'--config.{TOKENS}=(8,8)', f'--config.{TOKENS}', '(9,9)'], TOKENS, (9, 9)),
    (['--config.seed', '1', '--config.seed', '2'], 'seed', 2),
    (['-config.seed=1', '--config.seed=-2'], 'seed', -2),
    (['--config.task.data.train', 'my data/1.jsonl'], 'task.data.train', ('my data/1.jsonl',)),
    (['--config.task.data.train=()'], 'task.data.train', ()),
    (["--config.task.data.train=['a']"], 'task.data.train', ('a',)),
    (['--config.task.data.train=(a).jsonl'], 'task.data.train', ('(a).jsonl',)),
    (["--config.task.data.train=it's"], 'task.data.train', ("it's",)),
    (['--config.batch.pack'], 'batch.pack', True),
    (['--config.batch.pack', '--config.seed=2'], 'seed', 2),
    (['--noconfig.batch.pack'], 'batch.pack', False),
    (['--config.batch.pack=TRUE'], 'batch.pack', True),
    (['--config.model.path=12'], 'model.path', '12'),
    (['--config.batch.samples=0x4'], 'batch.samples', 4),
  ],
)
def test_a_value_is_what_was_typed(monkeypatch, capsys, arguments, field, value):
  assert operator.attrgetter(field)(parsed(monkeypatch, capsys, *arguments)) == value


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('–-config.seed=1', r"begins with '\u2013', which is no hyphen"),
    ('−−config.seed=1', r"begins with '\u2212', which is no hyphen"),
    ('--config.optim.b1=nan', 'config.optim.b1 = nan must be a finite number'),
    ('--config.optim.b2=1', 'config.optim.b2 = 1.0 must be 0 or more and below 1'),
    ('--config.optim.eps=0', 'config.optim.eps = 0.0 must be above 0'),
    ('--config.optim.eps=inf', 'config.optim.eps = inf must be a finite number'),
    ('--config.stages.stage1.optim.learning_rate=nan', 'learning_rate = nan must be a finite number'),
    ('--config.stages.stage1.optim.learning_rate=-1', 'stage1.optim.learning_rate = -1.0 must be 0 or more'),
    ('--config.stages.stage2.bonus=(0.0,1e999)', 'config.stages.stage2.bonus[1] = inf must be a finite number'),
    ('--config.seed=99999999999999999999', 'config.seed = 99999999999999999999 must be a finite number within 2**53'),
    ('--config.batch.samples=2.0', '--config.batch.samples=2.0: invalid literal'),
    ('--config.batch.samples=', '--config.batch.samples=: invalid literal'),
    ('--config.batch.samples', 'Missing value for flag --config.batch.samples'),
    ('--config.batch.pack=yes', '--config.batch.pack=yes'),
    (f'--config.{TOKENS}=8', 'must have one value per attempt: 1'),
    (f"--config.{TOKENS}=('8','8')", "attempt_tokens[0] = '8' must be of type int, not str"),
    (f'--config.{TOKENS}=(8,-8)', 'attempt_tokens = (8, -8): give each attempt a budget'),
    ('--config.task.data.train=(1,2)', 'config.task.data.train[0] = 1 must be of type str'),
    ('--config.batch={"samples":2}', 'config.batch.problems is missing'),
    ('--config.Seed=1', 'config.Seed is not a field'),
    ('--config.seed =1', 'config.seed  is not a field'),
    ('--config.seed.x=1', 'config.seed is a value, not a section'),
    ("--config.task.rewards={'math': nan}", 'a number for each name'),
    ('--config.task.template_kwargs={"a": false}', "write {'enable_thinking': False}"),
    ('--workdir=~no_such_user/x', "there is no user '~no_such_user'"),
    ('--config=' + 'y' * 300, 'File name too long; name a path that can be used'),
  ],
)
def test_a_value_that_cannot_be_is_refused_in_a_line(monkeypatch, capsys, argument, message):
  line = parsed(monkeypatch, capsys, argument)
  assert isinstance(line, str) and line.startswith('error: ') and message in line and '\n' not in line


@pytest.mark.parametrize('temperature', [float('nan'), float('inf'), -1.0])
def test_a_temperature_is_a_finite_number(temperature):
  with pytest.raises(ConfigError, match='temperature = .* must be a number of 0 or more'):
    api.evaluate(tiny.config_dict(), temperature=temperature)
