# SPDX-License-Identifier: Apache-2.0
"""Refuses, before weights are loaded, what does not fit the memory of the devices here.

The run's own programs are compiled, which it then finds compiled: what the check adds is the look at their sizes.
"""

from collections.abc import Sequence
import dataclasses

import jax

from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.parallel import hosts, memory
from score_jax.planning import costs, report, search
from score_jax.sampling.sampler import Sampler

_TRIES = 1  # settings to compile for a refusal; the doctor tries more


def request_here(config: RunConfig, sampler: Sampler) -> search.Request:
  """Returns the request of a run of config.mode on the devices here; all hosts get the same."""
  device = jax.local_devices()[0]
  usable = memory.least(jax.local_devices())
  if device.platform == 'cpu':  # they share it
    usable /= jax.local_device_count()
  chip = costs.Chip(device.platform, device.device_kind, 0, usable, 0, 0, 0)
  model = sampler.config, sampler.spec(), sampler.dtype
  return search.Request(config, *model, tuple(jax.devices()), chip, mode=config.mode)


def check_run(config: RunConfig, sampler: Sampler) -> None:
  """Raises ConfigError for a run that does not fit; else says what it will take.

  Nothing is done without config.faults.check_memory, here and in `check_evaluation`.
  """
  if not config.faults.check_memory:
    return
  request = dataclasses.replace(request_here(config, sampler), brief=True)
  answer = _checked(request)
  if hosts.is_main():
    model, norms = request.settled.model, request.settled.loss.attempt_gradient_norms
    print(
      f'memory: {report.foreseen(answer)}; remat {model.remat}, logits {model.logits_mb:g} MB, '
      f'gradient norms {"of each attempt" if norms else "of the whole"}',
      flush=True,
    )


def check_evaluation(config: RunConfig, sampler: Sampler, rows: int, temperatures: Sequence[float]) -> None:
  """Raises ConfigError for an evaluation, `rows` conversations at a time, that does not fit."""
  if not config.faults.check_memory:
    return
  request = dataclasses.replace(request_here(config, sampler), mode='evaluate', rows=rows, brief=True)
  for temperature in temperatures:
    _checked(dataclasses.replace(request, rollout=sampler.spec(temperature)))


def _checked(request: search.Request) -> search.Answer:
  answer = search.answer(request, _TRIES)
  if not answer.fits:
    raise ConfigError(report.remedy(answer))
  return answer
