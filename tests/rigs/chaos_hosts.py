"""Hits processes of a run at random moments, again and again: the run must go on to the end that it would have had.

`PYTHONPATH=. python tests/rigs/chaos_hosts.py --processes=2 --strikes=20`. Each round starts a run, hits one of its
processes (host 0 as likely as any), checks that all are gone in time, starts the run again, and compares checkpoints,
metrics, eval.json and hf/ bit by bit with those of a run that nobody disturbed. Prints one line a round.
"""

import argparse
import pathlib
import random
import shutil
import signal
import tempfile

import hosts_rig

DEADLINE = 45.0  # seconds: to wait for a host that never comes (25), or four heartbeats


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--processes', type=int, default=2)
  parser.add_argument('--devices', type=int, default=1, help='of each process')
  parser.add_argument('--strikes', type=int, default=20)
  parser.add_argument('--first', type=int, default=0, help='number of the first round, which is its seed')
  parser.add_argument('--signal', default='KILL', choices=['KILL', 'STOP'])
  parser.add_argument('--folder', default='', help='for runs, logs and compiled programs; default: a temporary one')
  args = parser.parse_args()
  folder = pathlib.Path(args.folder or tempfile.mkdtemp())
  rig = hosts_rig.Rig(folder / 'cache', folder / 'logs')
  whole = folder / f'whole_{args.processes}x{args.devices}'
  shutil.rmtree(whole, ignore_errors=True)
  rig.run(args.processes, whole, devices=args.devices)
  expected = hosts_rig.fingerprint(whole)
  good = 0
  for number in range(args.first, args.first + args.strikes):
    workdir = folder / f'struck_{args.processes}x{args.devices}_{number}'
    shutil.rmtree(workdir, ignore_errors=True)
    signal_number = getattr(signal, f'SIG{args.signal}')
    codes, victim, seconds = hosts_rig.strike(
      rig, args.processes, workdir, random.Random(number), signal_number, devices=args.devices
    )
    steps = hosts_rig.lines(workdir)
    rig.run(args.processes, workdir, devices=args.devices)
    same = hosts_rig.fingerprint(workdir) == expected
    others = [code for i, code in enumerate(codes) if i != victim]
    fine = same and seconds < DEADLINE and all(code in hosts_rig.LOST for code in others)
    good += fine
    print(
      f'{number}: host {victim} after {steps} steps; others {others} in {seconds:.1f} s; '
      f'{"the same end" if same else "ANOTHER END"}{"" if fine else "  <-- NOT FINE"}',
      flush=True,
    )
    shutil.rmtree(workdir)
  print(f'{good} of {args.strikes} rounds fine: {args.processes} processes x {args.devices} devices, {args.signal}')
  raise SystemExit(good != args.strikes)


if __name__ == '__main__':
  main()
