"""What can be checked of a run on the machine that it is to run on, each in a line with its remedy."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
from importlib import metadata
import io
import math
import os
import pathlib
import shutil
import sys
import tempfile

import jax
from packaging.requirements import Requirement

from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.errors import UserError
from score_jax.graders.pool import open_grader
from score_jax.models import lora as loras
from score_jax.models import weights
from score_jax.parallel import mesh as meshes
from score_jax.planning import report
from score_jax.planning import search
from score_jax.planning.roofline import GIB
from score_jax.planning.roofline import Chip
from score_jax.sampling.sampler import Sampler
from score_jax.storage import hf
from score_jax.storage import stores
from score_jax.tasks import heldout_problems
from score_jax.tasks import open_task
from score_jax.training import loop
from score_jax.training import run as runs
from score_jax.training import specs

_CHECKPOINTS = 3  # whole states that a run's folder must have room for: two kept and one being written
_DRY_PROBLEMS = 16  # that a dry run evaluates on
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
    """To be printed."""
    word = 'skipped' if self.skipped else 'ok' if self.ok else 'FAILED'
    return f'{self.name:<12}{word:<9}{self.message}'


def run_checks(config: RunConfig, workdir: str, *, tries: int, dry_run: bool) -> Iterator[Check]:
  """Yields every check in turn, as it is made. One that fails does not keep the others from being made."""
  checks: dict[str, Callable[[], str]] = dict(
    versions=_versions,
    devices=lambda: _devices(config),
    data=lambda: _data(config),
    grading=lambda: _grading(config),
    model=lambda: _model(config),
    memory=lambda: _memory(config, tries),
    disk=lambda: _disk(config, workdir),
  )
  failed = []
  for name, check in checks.items():
    result = _result(name, check)
    failed += [] if result.ok else [name]
    yield result
  if failed or not dry_run:
    yield Check('dry run', True, f'{", ".join(failed)} failed' if failed else '--nodry_run was given', skipped=True)
  else:
    yield _result('dry run', lambda: _dry_run(config, workdir))


def _result(name: str, check: Callable[[], str]) -> Check:
  """A check's line, whatever it raises."""
  try:
    return Check(name, True, check())
  except UserError as error:
    return Check(name, False, ' '.join(str(error).split()))
  except Exception as error:  # a doctor that dies of one illness tells of no other
    reason = f'{type(error).__name__}: {" ".join(str(error).split())[:300]} (not an error of the input)'
    return Check(name, False, reason)


def _version(package: str) -> str:
  """The installed version of a package; '' where there is none."""
  try:
    return metadata.version(package)
  except ImportError:
    return ''


def _versions() -> str:
  versions = [f'Python {sys.version.split()[0]}', *(f'{name} {_version(name)}' for name in _VERSIONS if _version(name))]
  # Requirements of the package, where it is installed itself.
  needed, unmet = metadata.requires('score_jax') if _version('score_jax') else [], []
  for part in map(Requirement, needed or []):
    version = _version(part.name)
    asked = not part.marker or part.marker.evaluate(dict(extra=''))
    if asked and not (version and part.specifier.contains(version, prereleases=True)):
      unmet.append(f'{part.name} is {version or "missing"}{version and f", not {part.specifier}"}')
  if unmet:
    raise ConfigError(f'{", ".join(versions)}; {"; ".join(unmet)}: pip install -c constraints.txt -e .')
  return ', '.join(versions)


def _devices(config: RunConfig) -> str:
  mesh, device = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor), jax.devices()[0]
  specs.check_spread(config, mesh)
  axes = ' x '.join(f'{name} {size}' for name, size in mesh.shape.items())
  return f'{mesh.size} x {device.device_kind} ({device.platform}), mesh {axes}, {jax.process_count()} process(es)'


def _data(config: RunConfig) -> str:
  task = open_task(config.task)
  if task.train.size == 0:
    raise ConfigError(f'config.task.data.train: task {config.task.name!r} has no training problems; name some')
  heldout = heldout_problems(task, config.eval.problems, config.eval.seed)
  first = ' '.join(task.problem(config.seed, 'train', 0).question.split())
  size = f'{task.train.size:,}' if task.train.size else 'endless'
  return f'{config.task.name}: {size} training problems, {len(heldout):,} held out; the first asks {first[:60]!r}'


def _grading(config: RunConfig) -> str:
  verifier = open_task(config.task).verifier
  with contextlib.closing(open_grader(verifier, config.grading)) as grader:
    return f'verifier {verifier!r} opens{grader.description and f"; {grader.description}"}'


def _model_here(config: RunConfig) -> tuple[pathlib.Path, Sampler]:
  """The model folder, and its sampler on the devices here."""
  folder = hf.folder_of(config.model.path)
  mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
  return folder, runs.open_sampler(config, folder, mesh)


def _model(config: RunConfig) -> str:
  folder, sampler = _model_here(config)
  hf.open_weights(folder, sampler.config)
  millions = weights.weight_table(sampler.config).parameters() / 1e6
  return (
    f'{sampler.config.family}, {millions:,.1f} million parameters; the chat template is proved, '
    f'{[len(feed) for feed in sampler.chat.separators]} ids stand between attempts, {sampler.dtype.name}'
  )


def memory_here(config: RunConfig, tries: int) -> search.Answer:
  """Returns whether the run fits the devices here; its model folder decides what is compiled."""
  _, sampler = _model_here(config)
  device = jax.devices()[0]
  usable = (device.memory_stats() or {}).get('bytes_limit', math.inf)  # of a device that does not say it: no limit
  if device.platform == 'cpu':
    usable = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / jax.local_device_count()
  chip = Chip(device.device_kind, device.device_kind, 0, usable, 0, 0, 0)
  request = search.Request(config, sampler.config, sampler.spec(), sampler.dtype, tuple(jax.devices()), chip)
  return search.answer(request, tries, lambda text: None)


def _memory(config: RunConfig, tries: int) -> str:
  answer = memory_here(config, tries)
  if not answer.fits:
    raise ConfigError(report.remedy(answer))
  peak, usable = answer.asked.peak / GIB, answer.request.chip.usable / GIB
  return f'{peak:.2f} GiB of a device at most ({answer.asked.worst}), {usable:.2f} there'


def _disk(config: RunConfig, workdir: str) -> str:
  if '://' in workdir:
    stores.store_of(workdir).probe()
    return f'{workdir} is no disk of this machine; it can be written to'
  decoder = hf.read_config(hf.folder_of(config.model.path))
  state = 3 * 4 * loras.trained_table(decoder, config.lora).parameters()
  wanted = _CHECKPOINTS * state + 4 * weights.weight_table(decoder).parameters()
  folder = _nearest_folder(workdir)
  free = shutil.disk_usage(folder).free
  if free < wanted:
    raise ConfigError(
      f'{folder} has {free / 1e9:.1f} GB free, but {_CHECKPOINTS} checkpoints of {state / 1e9:.1f} GB and the exported '
      'model need more; make room, lower config.checkpoint.keep or choose another --workdir'
    )
  return f'{free / 1e9:,.1f} GB free in {folder}, {wanted / 1e9:,.2f} wanted ({_CHECKPOINTS} checkpoints, export)'


def _nearest_folder(path: str) -> pathlib.Path:
  """The folder, or what there is above it."""
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
    lines = run.folder.metrics.read_text().splitlines()
  return f'{len(lines)} steps, evaluation, checkpoint and export in a temporary folder, which is gone again'
