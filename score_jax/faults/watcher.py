"""The tiny process beside a run: kills it when it is long past its deadline. Started by watchdog.py, by path.

It imports nothing of the package, and ends when the run's end of its pipe closes, which is when the run ends.
"""

import os
import select
import signal
import struct
import sys
import time

MARGIN = 5.0  # seconds in which the run's own thread can end it with an exit code
SIZE = struct.calcsize('d')


def main(pid: int, folder: str, stacks: int) -> None:
  deadline, looked, rest = float('inf'), time.monotonic(), b''
  while True:
    readable, _, _ = select.select([0], [], [], 1.0)
    if readable:
      got = os.read(0, 4096)
      if not got:
        return
      rest += got
      whole = len(rest) // SIZE * SIZE
      if whole:
        (deadline,) = struct.unpack('d', rest[whole - SIZE : whole])
        rest = rest[whole:]
    now = time.monotonic()
    if is_suspended(pid) or now - looked > 2 * MARGIN:  # by a person (Ctrl-Z), or this process was
      deadline += now - looked
    looked = now
    if now > deadline + MARGIN:
      end(pid, folder, stacks)
      return


def is_suspended(pid: int) -> bool:
  try:
    with open(f'/proc/{pid}/stat') as file:
      return file.read().rpartition(')')[2].split()[0] == 'T'
  except (OSError, IndexError):
    return False


def end(pid: int, folder: str, stacks: int) -> None:
  say = f'process {pid} was stuck, outside of Python or holding its lock; killed, run the same command again\n\n'
  os.kill(pid, signal.SIGUSR1)
  time.sleep(1)
  if select.select([stacks], [], [], 0)[0]:
    say += os.read(stacks, 65536).decode(errors='replace')
  os.kill(pid, signal.SIGKILL)
  sys.stderr.write(say)
  if os.path.isdir(folder):
    with open(os.path.join(folder, time.strftime(f'stuck-%Y%m%d-%H%M%S-{pid}.txt')), 'w') as file:
      file.write(say)


if __name__ == '__main__':
  main(int(sys.argv[1]), sys.argv[2], int(os.environ['STACKS']))
