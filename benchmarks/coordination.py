# SPDX-License-Identifier: Apache-2.0
"""A stand-in for JAX's coordination service: hosts are threads, messages are counted, time is a model.

A call takes its host one round trip; what is waited for is there when its sender's call ended. A host has one clock,
so what it does beside its step counts as if the step waited for it. Nothing is said of the network or of a service
that is overloaded.
"""

import collections
from collections.abc import Callable
import contextvars
import threading
from typing import Any

import jax

from score_jax.parallel import hosts

ROUND_TRIP = 1e-3  # seconds


class Service:
  """What all hosts share: values by key, and when they were set."""

  def __init__(self):
    self._lock = threading.Lock()
    self._kept: dict[str, tuple[bytes, float]] = {}
    self._there: dict[str, threading.Event] = collections.defaultdict(threading.Event)

  def set(self, key: str, value: bytes, at: float) -> None:
    with self._lock:
      self._kept[key] = value, at
      self._there[key].set()

  def wait(self, key: str, seconds: float) -> tuple[bytes, float]:
    """Returns a value and when it was set; raises as JAX's client does if it does not come."""
    with self._lock:
      there = self._there[key]
    if not there.wait(seconds):
      raise jax.errors.JaxRuntimeError(f'DEADLINE_EXCEEDED: {key}')
    with self._lock:
      return self._kept[key]

  def below(self, folder: str) -> list[tuple[str, bytes]]:
    with self._lock:
      return [(key, value) for key, (value, _) in self._kept.items() if key.startswith(folder)]

  def delete(self, folder: str) -> None:
    with self._lock:
      for key in [key for key in self._kept if key.startswith(folder)]:
        del self._kept[key], self._there[key]


class Client:
  """A host's side of it, with the methods of JAX's client that `parallel.hosts` calls.

  Attributes:
    clock: seconds of round trips and of waiting for others, by the model.
    messages, bytes: sent and received.
  """

  def __init__(self, service: Service):
    self._service, self._lock = service, threading.Lock()
    self.clock, self.messages, self.bytes = 0.0, 0, 0

  def _count(self, length: int, at: float = 0.0) -> float:
    with self._lock:
      self.clock = max(self.clock, at) + ROUND_TRIP
      self.messages, self.bytes = self.messages + 1, self.bytes + length
      return self.clock

  def key_value_set_bytes(self, key: str, value: bytes) -> None:
    self._service.set(key, value, self._count(len(key) + len(value)))

  def blocking_key_value_get_bytes(self, key: str, milliseconds: int) -> bytes:
    value, at = self._service.wait(key, milliseconds / 1e3)
    self._count(len(key) + len(value), at)
    return value

  def key_value_dir_get_bytes(self, folder: str) -> list[tuple[str, bytes]]:
    return self._service.below(folder)

  def key_value_delete(self, folder: str) -> None:
    self._count(len(folder))
    self._service.delete(folder)


def run(count: int, host: Callable[[], Any], patience: float = 600.0) -> tuple[list[Any], list[Client]]:
  """Calls `host` as each of `count` hosts at once; returns what they return, and their clients.

  Raises the error of the first host, by number, that raised one.
  """
  service, results, raised = Service(), [None] * count, {}
  clients = [Client(service) for _ in range(count)]

  def work(index: int) -> None:
    hosts.stand_for(hosts.Group(index, count, patience, clients[index]))
    try:
      results[index] = host()
    except BaseException as error:
      raised[index] = error

  contexts = [contextvars.copy_context() for _ in range(count)]
  threads = [threading.Thread(target=context.run, args=(work, i)) for i, context in enumerate(contexts)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  if raised:
    raise raised[min(raised)]
  return results, clients
