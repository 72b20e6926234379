# SPDX-License-Identifier: Apache-2.0
"""What can be checked of a run on its machine, each in a line with its remedy."""

from collections.abc import Iterator
import contextlib
import dataclasses
from importlib import metadata
import io
import pathlib
import shutil
import sys
import tempfile

import jax
from packaging.requirements import Requirement

from score_jax.config import RunConfig
from score_jax.errors import ConfigError, UserError
from score_jax.models import lora as loras
from score_jax.models import weights
from score_jax.parallel import mesh as meshes
from score_jax.planning import fit, report, search
from score_jax.sampling.sampler import Sampler
from score_jax.storage import hf, stores
from score_jax.tasks import heldout_problems, open_task
from score_jax.training import grading, loop, specs
from score_jax.training import run as runs

_CHECKPOINTS = 3  # two kept, one being written
_DRY_PROBLEMS = 16  # that are evaluated
_VERSIONS = ('jax', 'jaxlib', 'libtpu', 'flax', 'optax', 'orbax-checkpoint', 'transformers', 'numpy')


@dataclasses.dataclass(frozen=True)
class Check:
  """One line of the report."""

  name: str
  ok: bool
  message: str  # where it failed, the remedy too
  skipped: bool = False

  @property
  def line(self) -> str:
    word = 'skipped' if self.skipped else 'ok' if self.ok else 'FAILED'
    return f'{self.name:<12}{word:<9}{self.message}'


def run_checks(config: RunConfig, workdir: str, *, tries: int, dry_run: bool) -> Iterator[Check]:
  """Yields every check as it is made, also after one that failed."""
  checks = {
    'versions': _versions,
    'devices': lambda: _devices(config),
    'data': lambda: _data(config),
    'grading': lambda: _grading(config),
    'model': lambda: _model(config),
    'memory': lambda: _memory(config, tries),
    'disk': lambda: _disk(config, workdir),
    'dry run': lambda: _dry_run(config, workdir),
  }
  failed = []
  for name, check in checks.items():
    if name == 'dry run' and (failed or not dry_run):
      reason = f'{", ".join(failed)} failed' if failed else '--nodry_run was given'
      yield Check(name, True, reason, skipped=True)
      continue
    try:
      yield Check(name, True, check())
    except Exception as error:
      failed.append(name)
      reason = ' '.join(str(error).split())
      if not isinstance(error, UserError):
        reason = f'{type(error).__name__}: {reason[:300]} (not an error of the input)'
      yield Check(name, False, reason)


def _version(package: str) -> str:
  try:
    return metadata.version(package)
  except ImportError:
    return ''


def _versions() -> str:
  versions = [f'{name} {_version(name)}' for name in _VERSIONS if _version(name)]
  text = ', '.join([f'Python {sys.version.split()[0]}', *versions])
  unmet = []
  for need in map(Requirement, _version('score_jax') and metadata.requires('score_jax') or ()):
    version = _version(need.name)
    applies = not need.marker or need.marker.evaluate(dict(extra=''))
    if applies and not (version and need.specifier.contains(version, prereleases=True)):
      unmet.append(f'{need.name} is {version or "missing"}, not {need.specifier or "there"}')
  if unmet:
    raise ConfigError(f'{text}; {"; ".join(unmet)}: pip install -c constraints.txt -e .')
  return text


def _mesh(config: RunConfig) -> jax.sharding.Mesh:
  return meshes.make_mesh(*dataclasses.astuple(config.mesh))


def _sampler(config: RunConfig) -> Sampler:
  return runs.open_sampler(config, hf.folder_of(config.model.path), _mesh(config))


def _devices(config: RunConfig) -> str:
  mesh, device = _mesh(config), jax.devices()[0]
  specs.check_spread(config, mesh, meshes.sampling_mesh(mesh, **vars(config.sampling.mesh)))
  kind = f'{device.device_kind} ({device.platform})'
  return f'{mesh.size} x {kind}, mesh {report.axes(mesh)}, {jax.process_count()} process(es)'


def _data(config: RunConfig) -> str:
  task, name = open_task(config.task), config.task.name
  if task.train.size == 0:
    raise ConfigError(f'config.task.data.train: task {name!r} has no training problems; name some')
  heldout = heldout_problems(task, config.eval.problems, config.eval.seed)
  first = ' '.join(task.problem(config.seed, 'train', 0).question.split())
  size = f'{task.train.size:,}' if task.train.size else 'endless'
  return f'{name}: {size} training problems, {len(heldout):,} held out; the first asks {first[:60]!r}'


def _grading(config: RunConfig) -> str:
  task = open_task(config.task)
  graders = list(config.task.reward_weights) or [task.verifier]
  with contextlib.closing(grading.open_grader(config, task)) as grader:
    grading.check_solutions(config, task.verifier, task.listed, grader)
    return f'grader {", ".join(graders)} opens{grader.description and f"; {grader.description}"}'


def _model(config: RunConfig) -> str:
  sampler = _sampler(config)
  decoder, separators = sampler.config, sampler.chat.separators
  hf.open_weights(hf.folder_of(config.model.path), decoder)
  millions = weights.weight_table(decoder).parameters() / 1e6
  return (
    f'{decoder.family}, {millions:,.1f} million parameters; the chat template is proved, '
    f'{list(map(len, separators))} ids stand between attempts, {sampler.dtype.name}'
  )


def memory_here(config: RunConfig, tries: int) -> search.Answer:
  """Returns whether the run fits the devices here."""
  return search.answer(fit.request_here(config, _sampler(config)), tries)


def _memory(config: RunConfig, tries: int) -> str:
  answer = memory_here(config, tries)
  if not answer.fits:
    raise ConfigError(report.remedy(answer))
  return report.foreseen(answer)


def _disk(config: RunConfig, workdir: str) -> str:
  if '://' in workdir:
    stores.store_of(workdir).probe()
    return f'{workdir} is no disk of this machine; it can be written to'
  decoder = hf.read_config(hf.folder_of(config.model.path))
  state = 3 * 4 * loras.trained_table(decoder, config.lora).parameters()
  wanted = _CHECKPOINTS * state + 4 * weights.weight_table(decoder).parameters()
  folder = _nearest_folder(workdir)
  free = shutil.disk_usage(folder).free
  space = f'{free / 1e9:,.1f} GB free in {folder}, {wanted / 1e9:,.2f} wanted ({_CHECKPOINTS} checkpoints, export)'
  if free < wanted:
    raise ConfigError(f'{space}; make room, lower config.checkpoint.keep or choose another --workdir')
  return space


def _nearest_folder(path: str) -> pathlib.Path:
  folder = pathlib.Path(path).absolute()
  return next(above for above in (folder, *folder.parents) if above.is_dir())


def _dry_run(config: RunConfig, workdir: str) -> str:
  few = min(config.eval.problems or _DRY_PROBLEMS, _DRY_PROBLEMS)
  evaluation = dataclasses.replace(config.eval, problems=few, every=0)
  short = dataclasses.replace(config, max_steps=2, eval=evaluation, init_from='')
  parent = _nearest_folder('.' if '://' in workdir else workdir)
  with tempfile.TemporaryDirectory(dir=parent, prefix='score_jax_doctor_') as folder:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      run = runs.open_run(short, f'{folder}/run')
      loop.train(run)
    steps = len(run.folder.metrics.read_text().splitlines())
  return f'{steps} steps, evaluation, checkpoint and export, in a folder that is gone again'
