"""What can be checked of a run on the machine that it is to run on, each in a line with its remedy."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import importlib
from importlib import metadata
import io
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any

import jax

from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.errors import UserError
from score_jax.graders.pool import open_grader
from score_jax.parallel import mesh as meshes
from score_jax.planning import ask
from score_jax.planning import chips
from score_jax.planning import memory
from score_jax.planning import search
from score_jax.planning.chips import Chip
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
  said: str  # what was found; where it failed, the remedy too
  skipped: bool = False

  @property
  def line(self) -> str:
    """To be printed."""
    word = 'skipped' if self.skipped else 'ok' if self.ok else 'FAILED'
    return f'{self.name:<12}{word:<9}{self.said}'


class Skipped(Exception):
  """A check that does not apply here, or that needs what another one did not find."""


def of(config: RunConfig, workdir: str, *, tries: int, dry_run: bool) -> Iterator[Check]:
  """Every check in turn, as it is made. One that fails does not keep the others from being made."""
  checks: dict[str, Callable[[], str]] = dict(
    versions=_versions,
    devices=lambda: _devices(config),
    data=lambda: _data(config),
    grading=lambda: _grading(config),
    model=lambda: _model(config),
    memory=lambda: _memory(config, tries),
    disk=lambda: _disk(config, workdir),
  )
  checks['dry run'] = lambda: _dry_run(config, workdir)
  failed = []
  for name, check in checks.items():
    if name == 'dry run' and (failed or not dry_run):
      yield Check(name, True, f'{", ".join(failed)} failed' if failed else '--nodry_run was given', skipped=True)
      continue
    made = _made(name, check)
    failed += [] if made.ok else [name]
    yield made


def _made(name: str, check: Callable[[], str]) -> Check:
  """A check's line, whatever it does."""
  try:
    return Check(name, True, check())
  except Skipped as reason:
    return Check(name, True, str(reason), skipped=True)
  except UserError as error:
    return Check(name, False, ' '.join(str(error).split()))
  except Exception as error:  # a doctor that dies of one illness tells of no other
    return Check(
      name, False, f'{type(error).__name__}: {" ".join(str(error).split())[:300]} (not an error of the input)'
    )


def _versions() -> str:
  found = [f'Python {sys.version.split()[0]}']
  for name in _VERSIONS:
    with contextlib.suppress(metadata.PackageNotFoundError):
      found.append(f'{name} {metadata.version(name)}')
  if wrong := _unmet():
    raise ConfigError(f'{", ".join(found)}; {"; ".join(wrong)}: pip install -c constraints.txt -e .')
  return ', '.join(found)


def _unmet() -> list[str]:
  """Requirements of setup.py that what is installed does not meet; none where the package itself is not installed."""
  from packaging import requirements

  try:
    lines = metadata.requires('score_jax') or []
  except metadata.PackageNotFoundError:
    return []
  wrong = []
  for needed in map(requirements.Requirement, lines):
    if needed.marker and not needed.marker.evaluate(dict(extra='')):
      continue
    try:
      version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
      wrong.append(f'{needed.name} is missing')
      continue
    if not needed.specifier.contains(version, prereleases=True):
      wrong.append(f'{needed.name} is {version}, not {needed.specifier}')
  return wrong


def _mesh(config: RunConfig) -> Any:
  return meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)


def _devices(config: RunConfig) -> str:
  mesh = _mesh(config)
  specs.check_spread(config, mesh)
  axes = ' x '.join(f'{name} {size}' for name, size in mesh.shape.items())
  found = jax.devices()[0]
  return f'{mesh.size} x {found.device_kind} ({found.platform}), mesh {axes}, {jax.process_count()} process(es)'


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
  # Closed again at once: what it is for is to see whether it opens.
  open_grader(verifier, config.grading).close()
  return f'verifier {verifier!r} opens{_layers() if verifier == "code" else ""}'


def _layers() -> str:
  """What the sandbox of programs has here."""
  for name in ('score_jax.graders.code',):
    try:
      found = getattr(importlib.import_module(name), 'layers', None)
    except ImportError:
      continue
    if found:
      return f'; {found()}'
  return '; what its sandbox has here is not told by this version'


def _model(config: RunConfig) -> str:
  folder = hf.folder_of(config.model.path)
  sampler = runs.open_sampler(config, folder, _mesh(config))
  hf.open_weights(folder, sampler.config)
  feeds = [len(feed) for feed in sampler.chat.separators]
  return (
    f'{sampler.config.family}, {memory.parameters(sampler.config) / 1e6:,.1f} million parameters; the chat template is '
    f'proved, {feeds} ids stand between attempts, {sampler.dtype.name}'
  )


def _usable(device: Any) -> Chip:
  """The device here, with the memory that it says it has."""
  stats = device.memory_stats() or {}
  chip = chips.of_device(device.device_kind) or Chip(device.device_kind, device.device_kind, 0, 0, 0, 0, 0)
  if limit := stats.get('bytes_limit'):
    return dataclasses.replace(chip, usable=limit)
  if device.platform == 'cpu':
    pages = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return dataclasses.replace(chip, usable=pages / jax.local_device_count())
  if chip.usable:
    return chip
  raise Skipped(f'{device.device_kind} does not say how much memory it has')


def memory_here(config: RunConfig, tries: int) -> tuple[ask.Answer, Chip]:
  """Whether the run fits the devices here, and what these are; its model folder decides what is compiled."""
  sampler = runs.open_sampler(config, hf.folder_of(config.model.path), _mesh(config))
  devices, chip = tuple(jax.devices()), _usable(jax.devices()[0])
  wanted = search.Wanted(config, sampler.config, sampler.spec(), sampler.dtype, devices, chip.usable)
  return ask.answer(wanted, chip, tries, lambda text: None), chip


def _memory(config: RunConfig, tries: int) -> str:
  found, chip = memory_here(config, tries)
  if found.fits:
    most = {name: found.asked.most(name) / chips.GIB for name in found.asked.programs}
    worst = max(most, key=most.get)
    return f'{most[worst]:.2f} GiB of a device at most ({worst}), {chip.usable / chips.GIB:.2f} there'
  raise ConfigError(ask.remedy(found, config))


def _disk(config: RunConfig, workdir: str) -> str:
  if '://' in workdir:
    stores.store_of(workdir).probe()
    return f'{workdir} is no disk of this machine; it can be written to'
  decoder = hf.read_config(hf.folder_of(config.model.path))
  state = 3 * 4 * memory.parameters(decoder, config.lora)
  wanted = _CHECKPOINTS * state + 4 * memory.parameters(decoder)
  place = _nearest_folder(workdir)
  free = shutil.disk_usage(place).free
  if free < wanted:
    raise ConfigError(
      f'{place} has {free / 1e9:.1f} GB free, but {_CHECKPOINTS} checkpoints of {state / 1e9:.1f} GB and the exported '
      'model need more; make room, lower config.checkpoint.keep or choose another --workdir'
    )
  return f'{free / 1e9:,.1f} GB free in {place}, {wanted / 1e9:,.2f} wanted ({_CHECKPOINTS} checkpoints, export)'


def _nearest_folder(path: str) -> pathlib.Path:
  """The folder, or what there is above it."""
  found = pathlib.Path(path).absolute()
  while not found.is_dir():
    found = found.parent
  return found


def _dry_run(config: RunConfig, workdir: str) -> str:
  few = min(config.eval.problems or _DRY_PROBLEMS, _DRY_PROBLEMS)
  short = dataclasses.replace(
    config,
    max_steps=2,
    eval=dataclasses.replace(config.eval, problems=few, every=0),
    init_from='',
  )
  place = _nearest_folder('.' if '://' in workdir else workdir)
  with tempfile.TemporaryDirectory(dir=place, prefix='score_jax_doctor_') as folder:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
      run = runs.open_run(short, f'{folder}/run')
      loop.train(run)
    lines = run.folder.metrics.read_text().splitlines()
  return f'{len(lines)} steps, evaluation, checkpoint and export in a temporary folder, which is gone again'
