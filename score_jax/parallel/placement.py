# SPDX-License-Identifier: Apache-2.0
"""Where TPUs lie on a mesh: as their interconnect goes, and a host's side by side.

A host's devices are a block, and blocks are placed by `jax.experimental.mesh_utils`. So a host has the same rows on
every mesh over these devices in this order, and a group of devices that lies within a host is a line or a square of it.
Slices are joined by a slower network, which only copies of the model may span.
"""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

from absl import logging
from jax.experimental import mesh_utils
import numpy as np

from score_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class _Host:
  """The devices of a host, as `mesh_utils` takes a device."""

  devices: tuple[Any, ...]
  coords: tuple[int, ...]  # among hosts
  slice_index: int
  process_index: int
  platform: str = 'tpu'
  device_kind: str = 'host'
  core_on_chip: int = 0


def slice_of(device: Any) -> int:
  """Returns the number of a device's slice."""
  return getattr(device, 'slice_index', 0)


def on_tpus(devices: Sequence[Any], data: int, fsdp: int, tensor: int) -> np.ndarray:
  """Returns devices [data, fsdp, tensor]; ConfigError: fsdp or tensor would lie over several slices."""
  slices = len({slice_of(device) for device in devices})
  if data % slices:
    raise ConfigError(
      f'mesh: data {data}, fsdp {fsdp}, tensor {tensor}: fsdp or tensor would lie over several of {slices} slices, '
      f'whose network is too slow for it; let mesh.data be a multiple of {slices}'
    )
  in_order = sorted(devices, key=lambda device: (slice_of(device), device.process_index, *_from_corner(device)))
  grid = np.empty(len(devices), object)
  grid[:] = in_order
  grid = grid.reshape(data, fsdp, tensor)
  if len({device.process_index for device in devices}) == 1:
    try:
      return mesh_utils.create_device_mesh(grid.shape, in_order, allow_split_physical_axes=True)
    except (AssertionError, ValueError, NotImplementedError) as error:  # not a whole box of chips
      logging.info('devices are taken by number: %s', error)
      return grid
  hosts = _hosts(in_order)
  counts = {len(host.devices) for host in hosts}
  block = _block(min(counts), data // slices, fsdp, tensor)
  if len(counts) > 1 or block is None:
    logging.info('devices are taken host by host: data %d, fsdp %d, tensor %d have no block of a host', *grid.shape)
    return grid
  shape = data // slices // block[0], fsdp // block[1], tensor // block[2]
  try:
    placed = mesh_utils.create_hybrid_device_mesh(shape, (slices, 1, 1), hosts, allow_split_physical_axes=True)
  except (AssertionError, ValueError, NotImplementedError) as error:
    logging.info('devices are taken host by host: %s', error)
    return grid
  for index, host in np.ndenumerate(placed):
    inside = tuple(slice(at * size, (at + 1) * size) for at, size in zip(index, block, strict=True))
    grid[inside] = np.array(host.devices, object).reshape(block)
  return grid


def _block(count: int, data: int, fsdp: int, tensor: int) -> tuple[int, int, int] | None:
  """Returns the part [data, fsdp, tensor] of a mesh that a host's devices fill without a gap; None: there is none."""
  if count % tensor:
    return None
  left = count // tensor
  if fsdp % left == 0:
    return 1, left, tensor
  if left % fsdp == 0 and data % (left // fsdp) == 0:
    return left // fsdp, fsdp, tensor
  return None


def _hosts(in_order: list[Any]) -> list[_Host]:
  """Returns hosts with their places among hosts, by those of their first devices."""
  groups = [tuple(group) for _, group in itertools.groupby(in_order, lambda device: device.process_index)]
  corners = [np.array([device.coords for device in group]).min(axis=0) for group in groups]
  extents = np.array([device.coords for device in groups[0]]).max(axis=0) - corners[0] + 1
  return [
    _Host(group, tuple((corner // extents).tolist()), slice_of(group[0]), group[0].process_index)
    for group, corner in zip(groups, corners, strict=True)
  ]


def _from_corner(device: Any) -> tuple[int, ...]:
  """Orders chips x first: libtpu 0.0.42.1 aborts on gatherings among four of 256 that go around their square."""
  return (*reversed(device.coords), device.core_on_chip)
