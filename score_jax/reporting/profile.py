# SPDX-License-Identifier: Apache-2.0
"""Traces of this process for TensorBoard's profiler and XProf, and a summary."""

import collections
from collections.abc import Iterator
import contextlib
import pathlib
from typing import Any

import jax

_LONGEST_LISTED = 24  # kernels
_SETTLING = 2  # steps that are not traced: they compile


@contextlib.contextmanager
def traced(folder: pathlib.Path) -> Iterator[None]:
  """Traces what runs inside, to `folder`: devices and their calls, not Python's."""
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  with jax.profiler.trace(str(folder), profiler_options=options):
    yield


class Tracer:
  """Traces some steps of a run, once its programs are compiled."""

  def __init__(self, folder: pathlib.Path | None, steps: int):
    self._folder, self._last, self._done = folder, _SETTLING + steps, 0
    self._open = contextlib.ExitStack()

  @contextlib.contextmanager
  def step(self) -> Iterator[None]:
    """Stands around every step."""
    if self._folder and self._done == _SETTLING:
      self._open.enter_context(traced(self._folder))
    yield
    self._done += 1
    if self._folder and self._done == self._last:
      self._open.close()
      idle = summary(self._folder)['idle']
      message = 'the trace has no device' if idle is None else f'devices idle {idle:.1%}'
      print(f'traced {self._last - _SETTLING} steps to {self._folder}: {message}', flush=True)


NO_TRACE = Tracer(None, 0)


def summary(folder: pathlib.Path) -> dict[str, Any]:
  """Returns where the devices' time went in the newest trace of a folder.

  Returns:
    span_seconds, from the first kernel to the last; idle, the share of it in which a device ran nothing
    (mean over devices); kernels, the longest, with seconds and counts.
  """
  newest = max(folder.rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime)
  planes = [p for p in jax.profiler.ProfileData.from_file(str(newest)).planes if p.name.startswith('/device:')]
  idle, spans, total, count = [], [], collections.Counter(), collections.Counter()
  for plane in planes:
    intervals = []
    for line in plane.lines:
      if 'Stream' in line.name or line.name == 'XLA Ops':  # other lines repeat the same time
        for event in line.events:
          intervals.append((event.start_ns, event.start_ns + event.duration_ns))
          total[event.name] += event.duration_ns
          count[event.name] += 1
    if intervals:
      busy, span = covered(intervals)
      idle.append(1 - busy / span)
      spans.append(span)
  if not spans:
    return dict(span_seconds=None, idle=None, kernels=[])
  return dict(
    span_seconds=round(max(spans) / 1e9, 3),
    idle=round(sum(idle) / len(idle), 4),
    kernels=[(name, round(ns / 1e9, 4), count[name]) for name, ns in total.most_common(_LONGEST_LISTED)],
  )


def covered(intervals: list[tuple[float, float]]) -> tuple[float, float]:
  """Returns the length of the union of intervals, and from the first to the last."""
  first = end = min(intervals)[0]
  busy = 0
  for begin, stop in sorted(intervals):
    busy += max(0, stop - max(begin, end))
    end = max(end, stop)
  return busy, end - first
