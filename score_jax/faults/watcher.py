"""The tiny process beside a run: ends it when a phase is past its deadline. Started by watchdog.py, by path.

It imports nothing of the package, and ends when the run's end of its pipe closes, which is when the run ends.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time

MARGIN = 5.0  # seconds in which the run's own thread can end it with an exit code


def main(pid: int, folder: str, stacks: int, end: int) -> None:
  """Reads what the run does, one JSON object a line, and ends it when it is late."""
  phase, looked, rest = dict(name='', begun=0.0, deadline=float('inf')), time.monotonic(), b''
  while True:
    if is_readable(0, 1.0):
      if not (received := os.read(0, 65536)):
        return
      *whole, rest = (rest + received).split(b'\n')
      phase = json.loads(whole[-1]) if whole else phase
    now = time.monotonic()
    if is_suspended(pid) or now - looked > 2 * MARGIN:  # by a person (Ctrl-Z), or this process was
      phase['deadline'] += now - looked
    looked = now
    if now > phase['deadline']:
      os.kill(pid, signal.SIGUSR1)
      time.sleep(1)
      write(pid, folder, f'stuck in {phase["name"]} for {now - phase["begun"]:.1f} s', stacks)
      os.write(end, b'x')
      while (left := now + MARGIN - time.monotonic()) > 0 and is_readable(0, left) and os.read(0, 65536):
        pass
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
      return


def is_readable(file: int, seconds: float) -> bool:
  """Waits for something to read, or for the end of the file."""
  return bool(select.select([file], [], [], seconds)[0])


def is_suspended(pid: int) -> bool:
  """Whether the process is stopped, as by Ctrl-Z."""
  try:
    with open(f'/proc/{pid}/stat') as file:
      return file.read().rpartition(')')[2].split()[0] == 'T'
  except (OSError, IndexError):
    return False


def write(pid: int, folder: str, head: str, stacks: int) -> None:
  """Writes a message and the stacks that the run has dumped, to standard error and to a file of its folder."""
  text = f'{head}; ended, run the same command again (config.faults.stuck_* say how long a phase may take)\n\n'
  if is_readable(stacks, 0):
    text += os.read(stacks, 65536).decode(errors='replace')
  sys.stderr.write(f'\n{text}')
  sys.stderr.flush()
  if os.path.isdir(folder):
    with open(os.path.join(folder, time.strftime(f'stuck-%Y%m%d-%H%M%S-{pid}.txt')), 'w') as file:
      file.write(text)


if __name__ == '__main__':
  main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
