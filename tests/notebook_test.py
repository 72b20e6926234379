"""The notebooks, run from top to bottom on the CPU, tiny; and what of them can be said without running them."""

import ast
import base64
import html.parser
import os
import pathlib
import re
import sys
import tempfile
import types

from IPython.core.inputtransformer2 import TransformerManager
import nbclient
import nbformat
import pytest
from report_test import drawn
from traitlets.config import Config

from score_jax.core_types import Stop, Verdict
from score_jax.errors import ConfigError, DataError
from score_jax.reporting import notebook as notebooks
from score_jax.reporting import rows
from score_jax.reporting.rows import Attempt, Row

ROOT = pathlib.Path(__file__).parent.parent
PATHS = [ROOT / 'launch/colab.ipynb', ROOT / 'launch/kaggle.ipynb']
# Cells in which the notebooks may differ; `copying` and `copy` are Colab's alone.
OWN_CELLS = {'about', 'parameters', 'keeping', 'where', 'resuming'}
MARKUP = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'
STEERING = '\x1b]0;owned\x07\x1b[2J\u202egnp\u200b\x9b\r\b'
TINY = [
  *('--config.stages.stage1.steps=1', '--config.stages.stage2.steps=1', '--config.optim.warmup_steps=0'),
  *('--config.eval.problems=8', '--config.batch.problems=4', '--config.batch.samples=2'),
  *('--config.batch.micro_batches=1', '--config.loss.attempt_gradient_norms=False'),
]
OWN = [
  *TINY,
  *('--config.task.countdown.prompt=reach {target} with {numbers}', '--config.task.instruction=Check and retry.'),
  *('--config.sampling.prompt_tokens=9', '--config.sampling.attempt_tokens=(6,6)', '--config.lora.rank=2'),
]
# Put behind the cell `parameters`. Tuples that are given twice are joined, so flags that are replaced must go.
OVERRIDES = """
PROMPT, AGAIN = 'reach {{target}} with {{numbers}}', 'Check and retry.'
FOLDER, INSTALL, RUNS, MODEL = {root!r}, False, {runs!r}, {model!r}
QUICK, DOCTOR = {tiny!r}, ['--nodry_run']
replaced = {{flag.split('=')[0] for flag in {own!r}}}
OWN = [flag for flag in OWN if flag.split('=')[0] not in replaced] + {own!r}
"""


def saved(path):
  return nbformat.read(path, as_version=4)


@pytest.fixture(scope='module', params=PATHS, ids=lambda path: path.stem)
def path(request):
  return request.param


@pytest.fixture(scope='module')
def code_cells(path):
  return {cell.id: cell for cell in saved(path).cells if cell.cell_type == 'code'}


def plain(source):
  """A cell's Python as IPython makes it of `!` and `%` lines."""
  return ast.parse(TransformerManager().transform_cell(source))


def conversations(text):
  """One of each kind, in which all that a model says is `text`."""
  right, wrong = (
    Attempt(f'{v.name} {text}', text, v, Stop.END_OF_TURN, 9, -3.0) for v in (Verdict.CORRECT, Verdict.WRONG)
  )
  pairs = [(first, last) for first in (right, wrong) for last in (right, wrong)]
  return [Row(f'p{i}', text, {'level': text}, pair, 0.2, 'sampled', 0) for i, pair in enumerate(pairs)]


@pytest.fixture(scope='module')
def executed(path, tmp_path_factory, hf_folder):
  """The notebook after a run: its code cells by id, and the folder of its runs.

  Tiny, installed already, with no network; the conversations of its first run are replaced by those of an attacker
  before any cell shows them.
  """
  home = tmp_path_factory.mktemp('notebook')
  rows.write(home / 'hostile.jsonl.gz', conversations(MARKUP + STEERING))
  overrides = OVERRIDES.format(root=str(ROOT), runs=str(home / 'runs'), model=str(hf_folder), tiny=TINY, own=OWN)
  plant = (
    f'import shutil\n_ = shutil.copy({str(home / "hostile.jsonl.gz")!r}, f"{{RUNS}}/quickstart/rows/final.jsonl.gz")'
  )
  notebook = saved(path)
  for after, source in (('parameters', overrides), ('train', plant)):
    index = [cell.id for cell in notebook.cells].index(after) + 1
    notebook.cells.insert(index, nbformat.v4.new_code_cell(source))
  bin_ = pathlib.Path(sys.executable).parent
  environment = os.environ | {
    'PATH': f'{bin_}{os.pathsep}{os.environ["PATH"]}',
    # One device; programs that run for a moment are compiled fast, and once for all commands.
    'XLA_FLAGS': '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true',
    'JAX_COMPILATION_CACHE_DIR': str(home / 'cache'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  with (
    tempfile.TemporaryDirectory() as sockets
  ):  # whose paths are short; on TCP ports a kernel warns of who could listen
    config = Config(KernelManager=dict(transport='ipc', ip=f'{sockets}/kernel'))
    resources = dict(metadata=dict(path=str(home)))
    client = nbclient.NotebookClient(notebook, kernel_name='python3', timeout=300, resources=resources, config=config)
    client.execute(env=environment)
  return {cell.id: cell for cell in notebook.cells if cell.cell_type == 'code'}, home / 'runs'


def printed(cell):
  return ''.join(output.text for output in cell.outputs if output.output_type == 'stream').replace('\r\n', '\n')


def shown(cell, kind):
  return [output.data[kind] for output in cell.outputs if kind in output.get('data', {})]


class Parsed(html.parser.HTMLParser):
  """Elements with their attributes."""

  def __init__(self, text):
    super().__init__()
    self.elements = []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))


# As it is saved.


def test_nothing_but_the_source_is_saved(path, code_cells):
  nbformat.validate(saved(path))
  for cell in code_cells.values():
    assert cell.outputs == [] and cell.execution_count is None and set(cell.metadata) <= {'tags'}
  ids = [cell.id for cell in saved(path).cells]
  assert all(re.fullmatch('[a-z]+', name) for name in ids) and len(set(ids)) == len(ids), 'ids that stay'


def test_every_cell_stands_below_a_heading(path):
  cells = saved(path).cells
  for before, cell in zip(cells, cells[1:], strict=False):
    if cell.cell_type == 'code':
      assert before.cell_type == 'markdown' and re.match('#+ ', before.source), cell.id
      assert len(cell.source.splitlines()) <= 40, f'{cell.id} is long'


def test_settings_are_in_one_cell_that_holds_nothing_else(path, code_cells):
  tagged = [name for name, cell in code_cells.items() if 'parameters' in cell.metadata.get('tags', [])]
  assert tagged == ['parameters']
  body = plain(code_cells['parameters'].source).body
  assert all(isinstance(node, ast.Assign) and node.targets[0].id.isupper() for node in body)
  settings = {node.targets[0].id for node in body}
  set_again = {
    name.id
    for cell_id, cell in code_cells.items()
    for name in ast.walk(plain(cell.source))
    if isinstance(name, ast.Name)
    and isinstance(name.ctx, ast.Store)
    and name.id in settings
    and cell_id != 'parameters'
  }
  kept = {'RUNS'} if path.stem == 'colab' else set()
  assert set_again == kept, 'only where runs are kept follows from another setting'


def test_jax_is_replaced_before_anything_loads_it(code_cells):
  """In the order of the cells: the check, jax, the project. Before that nothing is imported, and jax never here."""
  events = []
  for cell in code_cells.values():
    nodes = [node for node in ast.walk(plain(cell.source)) if hasattr(node, 'lineno')]
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
      if isinstance(node, ast.Compare) and ast.unparse(node) == "'jax' in sys.modules":
        events.append('check')
      elif isinstance(node, ast.Call) and ast.unparse(node.func) == 'get_ipython().system':
        command = node.args[0].value
        if 'pip install' in command:
          events.append('jax' if '"jax{extra}"' in command and '--upgrade' in command else 'project')
        elif 'score_jax' in command.replace('score_jax_runs', '') or 'import jax' in command:
          events.append('use')
      elif isinstance(node, ast.Import | ast.ImportFrom):
        names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        top = {name.split('.')[0] for name in names}
        assert 'jax' not in top, f'{cell.id} loads jax into the notebook, which then holds the devices'
        events += ['use'] * bool(top & {'score_jax', 'transformers', 'huggingface_hub'})
  assert events[:3] == ['check', 'jax', 'project'] and set(events[3:]) == {'use'}


def test_every_command_that_matters_is_checked(code_cells):
  """A `!` line that fails does not stop a notebook."""
  for name, cell in code_cells.items():
    lines = cell.source.splitlines()
    for line, after in zip(lines, [*lines[1:], ''], strict=True):
      if re.match(r' *!(git|pip|gcloud|python -m score_jax\.(?!report))', line):
        assert after.strip().startswith('assert not _exit_code, '), f'{name}: {line}'


def test_the_notebooks_are_one_but_for_what_the_machines_are():
  colab, kaggle = ({cell.id: cell.source for cell in saved(path).cells} for path in PATHS)
  assert list(kaggle) == [name for name in colab if name not in ('copying', 'copy')]
  assert {name for name in kaggle if kaggle[name] != colab[name]} == OWN_CELLS
  assert not re.search('colab|drive', ' '.join(kaggle.values()), re.IGNORECASE)


def test_runs_of_an_earlier_version_are_there_to_go_on_with(tmp_path, monkeypatch):
  """With Kaggle's cell alone, and its secrets."""
  (tmp_path / 'input/quickstart').mkdir(parents=True)
  source = {cell.id: cell.source for cell in saved(PATHS[1]).cells}['where']
  secrets = types.SimpleNamespace(UserSecretsClient=lambda: types.SimpleNamespace(get_secret=str.upper))
  monkeypatch.setitem(sys.modules, 'kaggle_secrets', secrets)
  monkeypatch.setattr(sys, 'path', sys.path[:])
  for name in ('HF_TOKEN', 'TERM'):
    monkeypatch.setenv(name, '')
  settings = dict(EARLIER=str(tmp_path / 'input'), RUNS=str(tmp_path / 'runs'), SECRET='token', FOLDER=str(tmp_path))
  for _ in range(2):  # again: what was begun here is not replaced
    exec(source, dict(os=os, sys=sys, QUICK=[], DOCTOR=[], OWN=[]) | settings)
  assert (tmp_path / 'runs/quickstart').is_dir() and os.environ['HF_TOKEN'] == 'TOKEN'


# As it runs.


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(executed):
  cells, runs = executed
  assert all(cell.execution_count for cell in cells.values())
  assert not [output for cell in cells.values() for output in cell.outputs if output.output_type == 'error']
  assert 'FAILED' not in printed(cells['doctor']) and 'memory' in printed(cells['doctor'])
  for name in ('train', 'figures', 'owntrain', 'evaluate', 'resume'):
    assert re.search(r'^policy +decoding +acc@t1 +acc@t2 +delta', printed(cells[name]), re.MULTILINE), name
  assert 'trainable   yes' in printed(cells['model'])
  assert 'pass@4' in printed(cells['evaluate'])
  assert (runs / 'exported/model.safetensors').is_file()
  assert printed(cells['transformers']).count('assistant:') == 2
  assert '2/2' in printed(cells['resume']) and '1/2' not in printed(cells['resume']), 'nothing is done again'


@pytest.mark.slow
def test_figures_are_shown(executed):
  cells, runs = executed
  drawn = {base64.b64encode(path.read_bytes()).decode() for path in (runs / 'figures').glob('*.png')}
  images = shown(cells['figures'], 'image/png')
  assert len(images) == 3 and {image.replace('\n', '') for image in images} <= drawn


@pytest.mark.slow
def test_what_a_model_says_is_inert_in_every_output(executed):
  cells, _ = executed
  text = printed(cells['conversations'])
  assert text.count('attempt 2: ') == 4 and 'fixed (wrong, then right)' in text
  assert '<script>document.title="owned"</script>' in text and '<U+001B>]0;owned<U+0007>' in text and '<U+202E>' in text
  assert re.fullmatch(r'[ -~\n]*', text)
  for name, cell in cells.items():
    assert '\x1b' not in printed(cell), f'{name}: something moves the cursor'
    for output in cell.outputs:
      kinds = set(output.get('data', {}))
      assert kinds <= {'text/plain', 'text/html', 'image/png'}, name
      assert 'text/html' not in kinds or name == 'report', f'{name} shows markup'


@pytest.mark.slow
def test_the_report_is_shown_in_a_frame_that_reaches_nothing(executed):
  cells, _ = executed
  (markup,) = shown(cells['report'], 'text/html')
  (div, _), (frame, attributes) = Parsed(markup).elements
  assert (div, frame, attributes['sandbox']) == ('div', 'iframe', 'allow-scripts')
  assert 'srcdoc' not in attributes and 'allow' not in attributes
  page = base64.b64decode(attributes['src'].removeprefix('data:text/html;base64,'))
  assert page.startswith(b'<!doctype html>') and b'Content-Security-Policy' in page
  assert b'owned' in page, 'the conversations are those that were planted'
  assert 'owned' not in markup


# The helper.


def test_a_page_can_not_leave_its_frame(tmp_path):
  (tmp_path / 'report.html').write_text('"><script>alert(1)</script>')
  markup = notebooks.frame(tmp_path, 300)
  assert [tag for tag, _ in Parsed(markup).elements] == ['div', 'iframe']
  assert notebooks.frame(tmp_path / 'report.html', 300) == markup


def test_no_report_is_one_clear_error(tmp_path, monkeypatch):
  with pytest.raises(DataError, match='python -m score_jax.report RUN writes it'):
    notebooks.show_report(tmp_path)
  (tmp_path / 'report.html').write_bytes(b' ' * (21 * 2**20))
  with pytest.raises(DataError, match='has 21 MB and is no report'):
    notebooks.show_report(tmp_path)
  monkeypatch.setitem(sys.modules, 'IPython', None)
  with pytest.raises(ConfigError, match=r'score_jax\[notebook\]'):
    notebooks.show_report(tmp_path)


@pytest.mark.slow
def test_a_browser_draws_the_frame_and_its_links_stay_inside(tmp_path):
  """With a page whose script would change the notebook around it if it could."""
  page = tmp_path / 'report.html'
  page.write_text(
    '<script>try { parent.document.title = "owned"; } catch (e) { console.log("kept out:", e.name); }'
    'console.log("page ran at", new URL("#there", document.baseURI).protocol);</script>'
  )
  outer = tmp_path / 'notebook.html'
  outer.write_text(f'<title>notebook</title>{notebooks.frame(page, 300)}')
  dom, messages = drawn(outer)
  assert '<title>notebook</title>' in dom
  assert any('kept out: SecurityError' in line for line in messages)
  assert any('page ran at data:' in line for line in messages), 'its own script runs, and its links lead into itself'
