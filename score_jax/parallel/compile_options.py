# SPDX-License-Identifier: Apache-2.0
"""What XLA is told beyond its defaults when a program is compiled, by kind of device; effects in docs/performance.md.

A release of libtpu that does not know an option refuses the whole program, so each is tried on a small one first.
"""

import functools
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

Options = tuple[tuple[str, Any], ...]  # of `jax.jit`, hashable

# Else a rollout's cache goes through the core's memory and back, whole, for one new token.
_NOTHING_WRITTEN_BACK: Options = (('xla_msa_max_outstanding_evictions', 0),)
OF_ROLLOUTS = {'TPU v5 lite': _NOTHING_WRITTEN_BACK, 'TPU v6 lite': _NOTHING_WRITTEN_BACK}  # by `device_kind`


def of_rollouts(mesh: Mesh) -> Options:
  """Returns the options that rollouts on a mesh are compiled with: those that the installed compiler knows."""
  device = mesh.devices.flat[0]
  return tuple(option for option in OF_ROLLOUTS.get(device.device_kind, ()) if is_known(device, *option))


@functools.cache
def is_known(device: Any, name: str, value: Any) -> bool:
  """Tells whether the compiler for a device takes an option, by compiling a small program with it."""
  number = jax.ShapeDtypeStruct((), jnp.float32, sharding=SingleDeviceSharding(device))
  try:
    jax.jit(lambda x: x + 1).lower(number).compile({name: value})
  except jax.errors.JaxRuntimeError as error:
    logging.warning('%s is compiled without %s = %s: %s', device.device_kind, name, value, str(error).splitlines()[0])
    return False
  return True
