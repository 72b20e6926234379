"""Runs of several processes on this machine, each with CPU devices of its own."""

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).parents[2]

# How a process ends whose run has lost another: its own exit code, or JAX's abort where JAX notices first.
LOST = (75, -signal.SIGABRT)

# Both stages, a reference that is saved with the run, offline first attempts and fresh moments. The bundled base earns
# rewards, without which gradients would be noise; a large epsilon keeps Adam from turning noise into steps.
OVERRIDES = {
  'batch.problems': 4,
  'batch.samples': 4,
  'batch.pack': True,
  'stages.stage1.steps': 2,
  'stages.stage2.steps': 4,
  'stages.stage2.reference': 'stage_start',
  'stages.stage2.offline_first': 0.5,
  'stages.stage2.optim.reset_moments': True,
  'optim.warmup_steps': 0,
  'optim.eps': 1e-3,
  'optim.learning_rate': 1e-3,
  'eval.problems': 10,  # no multiple of the rows: the last ones are repeats
  'checkpoint.every': 1,
  'checkpoint.best_window': 2,
  'offline_pool': 6,
  'hosts.init_seconds': 25,
  'hosts.heartbeat_seconds': 10,
  'hosts.barrier_seconds': 120,
}


@dataclasses.dataclass(frozen=True)
class Rig:
  """How runs are started."""

  cache: pathlib.Path  # compiled programs
  logs: pathlib.Path  # what processes say

  def environment(self, devices: int) -> dict[str, str]:
    """CPU devices, and programs compiled fast rather than well, and once."""
    return {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
      'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
      'JAX_COMPILATION_CACHE_DIR': str(self.cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
      'PYTHONPATH': str(ROOT),
    }

  def start(self, choice: str, workdir: pathlib.Path, *more: str, devices: int = 1) -> subprocess.Popen:
    """One process; `choice` is its --distributed."""
    module = ['tests/rigs/hosts_main.py'] if choice != 'off' else ['-m', 'score_jax.main']
    command = [
      sys.executable, *module, '--config=configs/quickstart.py', f'--workdir={workdir}', f'--distributed={choice}',
      *(f'--config.{name}={value}' for name, value in OVERRIDES.items()), *more,
    ]  # fmt: skip
    self.logs.mkdir(parents=True, exist_ok=True)
    with (self.logs / f'{workdir.name}.{choice.rpartition(",")[2]}').open('w') as log:
      return subprocess.Popen(command, cwd=ROOT, env=self.environment(devices), stdout=log, stderr=subprocess.STDOUT)

  def start_all(self, count: int, workdir: pathlib.Path, *more: str, devices: int = 1) -> list[subprocess.Popen]:
    """All processes of a run, on a port of their own; one alone is a plain run."""
    if count == 1:
      return [self.start('off', workdir, *more, devices=devices)]
    port = free_port()
    return [self.start(f'local:127.0.0.1:{port},{count},{i}', workdir, *more, devices=devices) for i in range(count)]

  def run(self, count: int, workdir: pathlib.Path, *more: str, devices: int = 1) -> None:
    """A run to its end."""
    processes = self.start_all(count, workdir, *more, devices=devices)
    codes, _ = ended(processes, 300)
    assert codes == [0] * count, (codes, self.printed(workdir))

  def printed(self, workdir: pathlib.Path) -> str:
    """What the processes of a run printed last."""
    return '\n'.join(f'{path}: {path.read_text()[-1500:]}' for path in sorted(self.logs.glob(f'{workdir.name}.*')))


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]


def ended(processes: list[subprocess.Popen], seconds: float) -> tuple[list[int], float]:
  """Exit codes when all have ended, and after how many seconds; what is left at the deadline is killed."""
  begun = time.monotonic()
  try:
    for process in processes:
      process.wait(max(0.01, begun + seconds - time.monotonic()))
  except subprocess.TimeoutExpired:
    left = [i for i, process in enumerate(processes) if process.poll() is None]
    raise AssertionError(f'processes {left} are still there after {seconds} s') from None
  finally:
    for process in processes:
      process.kill()
  return [process.returncode for process in processes], time.monotonic() - begun


def arrays(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of an item of a checkpoint, whatever devices it was written from."""
  reader = ocp.PyTreeCheckpointer()
  tree = reader.metadata(folder).item_metadata.tree
  wanted = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
  restored = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=wanted))
  return {str(path): np.asarray(leaf) for path, leaf in sorted(ocp.tree.to_flat_dict(restored).items())}


def fingerprint(workdir: pathlib.Path) -> dict[str, str]:
  """Hashes of the last checkpoint's arrays and progress, of the metrics without times, rows, eval.json, the weights."""
  last = max((workdir / 'checkpoints').glob('[0-9]*'), key=lambda path: int(path.name))
  read = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  parts = dict(
    step=last.name.encode(),
    metrics=json.dumps([{name: line[name] for name in line if name != 'seconds'} for line in read]).encode(),
    progress=(last / 'progress/metadata').read_bytes(),
    eval=(workdir / 'eval.json').read_bytes(),
    weights=(workdir / 'hf/model.safetensors').read_bytes(),
  )
  parts |= {f'rows/{path.name}': path.read_bytes() for path in sorted((workdir / 'rows').iterdir())}
  for item in ('params', 'rest'):
    for path, array in arrays(last / item).items():
      parts[f'{item}{path}'] = array.tobytes()
  return {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}


def lines(workdir: pathlib.Path) -> int:
  metrics = workdir / 'metrics.jsonl'
  return metrics.read_text().count('\n') if metrics.exists() else 0


def strike(
  rig: Rig,
  count: int,
  workdir: pathlib.Path,
  draw: random.Random,
  signal_number: int = signal.SIGKILL,
  devices: int = 1,
):
  """Starts a run and hits a random process at a random moment: exit codes of all, victim, seconds until all ended."""
  steps, victim = draw.randrange(6), draw.randrange(count)
  processes = rig.start_all(count, workdir, devices=devices)
  while lines(workdir) < steps and all(process.poll() is None for process in processes):
    time.sleep(0.005)
  time.sleep(draw.random() * (0.3 if steps else 8.0))  # without a line: anywhere from the start to the first
  assert all(process.poll() is None for process in processes), ('ended before the strike', rig.printed(workdir))
  processes[victim].send_signal(signal_number)
  if signal_number == signal.SIGSTOP:
    others = [process for i, process in enumerate(processes) if i != victim]
    codes, seconds = ended(others, 60)
    processes[victim].kill()
    processes[victim].wait()
    codes.insert(victim, processes[victim].returncode)
    return codes, victim, seconds
  codes, seconds = ended(processes, 60)
  return codes, victim, seconds
