"""Whether a configuration fits a kind of machine, and the nearest one that does."""

from collections.abc import Callable
import dataclasses
from typing import Any

from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.planning import memory
from score_jax.planning import report
from score_jax.planning import search
from score_jax.planning import settings
from score_jax.planning.chips import GIB
from score_jax.planning.chips import Chip
from score_jax.planning.report import Compiled
from score_jax.planning.search import Candidate
from score_jax.planning.search import Compiler
from score_jax.planning.search import Wanted


@dataclasses.dataclass(frozen=True)
class Answer:
  """What was found out."""

  asked: Compiled | None  # None: not compiled, for the reason in `refusal`
  refusal: str
  proposed: Compiled | None = None  # compiled, and fits; None: not looked for, or not found
  nearest: Candidate | None = None  # where nothing is estimated to fit: what comes nearest

  @property
  def fits(self) -> bool:
    return self.asked is not None and self.asked.fits


def answer(wanted: Wanted, chip: Chip, tries: int, say: Callable[[str], None]) -> Answer:
  """Compiles the setting that is asked for; if it does not fit, up to `tries` of those that are estimated to.

  Args:
    wanted: the configuration, and where it is to fit.
    chip: what the devices are.
    tries: settings to compile beside the one that is asked for.
    say: is told, in a line, what is being done.
  """
  compiler, factors = Compiler(say), {}
  asked, refusal = None, _hopeless(wanted)
  if not refusal:
    asked = _compiled(wanted, wanted.config, chip, compiler, factors)
    if asked.fits or not tries:
      return Answer(asked, '')
  for _ in range(tries):
    found = search.candidates(wanted, factors)
    if not found or found[0].most > wanted.limit:
      return Answer(asked, refusal, nearest=found[0] if found else None)
    say(f'trying {" ".join(settings.flags_between(wanted.config, found[0].config)) or "it as it is"}')
    proposed = _compiled(wanted, found[0].config, chip, compiler, factors)
    if proposed.fits:
      return Answer(asked, refusal, proposed)
  return Answer(asked, refusal)


def _hopeless(wanted: Wanted) -> str:
  """Why compiling would tell nothing new; '' if it would."""
  try:
    plan = wanted.plan(wanted.config)
  except ConfigError as error:
    return str(error)
  held = memory.beside(plan, 'rollout', settings.references(wanted.config)) + memory.sizes(plan).policy
  if held <= wanted.limit:
    return ''
  return (
    f'parameters, optimizer, base and the copy that is sampled from take {held / GIB:.1f} GiB of each device, which '
    f'has {wanted.limit / GIB:.1f}; nothing was compiled'
  )


def _compiled(wanted: Wanted, config: RunConfig, chip: Chip, compiler: Compiler, factors: dict[str, float]) -> Compiled:
  """A setting's programs; what they say of the estimates is kept in `factors`."""
  plan = wanted.plan(config)
  programs = compiler.programs(plan)
  # A setting that was estimated to fit and does not may be followed by the same estimate: so never below the last.
  factors |= {name: search.factor(plan, program) for name, program in programs.items()}
  return report.Compiled(config, plan, programs, chip)


def text(found: Answer, config: RunConfig) -> str:
  """What was found out, to be read."""
  parts = []
  if found.asked:
    parts.append(f'{report.setting_line(found.asked.plan)}\n{report.table(found.asked)}')
  if found.fits:
    return '\n\n'.join([*parts, 'It fits.'])
  parts.append(remedy(found, config))
  if found.proposed:
    parts.append(f'{report.setting_line(found.proposed.plan)}\n{report.table(found.proposed)}')
  return '\n\n'.join(parts)


def remedy(found: Answer, config: RunConfig) -> str:
  """Why a setting does not fit, and what to do about it, in a line."""
  reason = found.refusal
  if found.asked:
    asked = found.asked
    worst = max(asked.programs, key=asked.most)
    reason = f'{worst} takes {asked.most(worst) / GIB:.2f} GiB of {asked.chip.usable / GIB:.2f}'
  if found.proposed:
    flags = settings.flags_between(config, found.proposed.config)
    return f'It does not fit: {reason}. The nearest setting found that does: {" ".join(flags)}'
  if found.nearest:
    flags = ' '.join(settings.flags_between(config, found.nearest.config)) or 'as it is'
    return (
      f'It does not fit: {reason}. No setting on these devices is estimated to; the nearest needs about '
      f'{found.nearest.most / GIB:.1f} GiB of each: {flags}. Take more devices, or adapters (--config.lora.rank=16)'
    )
  return f'It does not fit: {reason}. None of the settings that were tried does; --tries=N tries more'


def as_data(found: Answer, config: RunConfig) -> dict[str, Any]:
  """What was found out, as plain data."""
  data = dict(fits=found.fits, refusal=found.refusal, asked=found.asked and report.as_data(found.asked))
  if found.proposed:
    flags = settings.flags_between(config, found.proposed.config)
    data['proposed'] = report.as_data(found.proposed) | dict(flags=flags)
  if found.nearest:
    flags = settings.flags_between(config, found.nearest.config)
    data['nearest'] = dict(flags=flags, bytes=found.nearest.most)
  return data
