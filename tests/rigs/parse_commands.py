"""Parses command lines as the commands do, without running them: JSON [[MODULE, [ARGUMENT, ...]], ...] on the input.

Printed: as JSON, what each is refused with, '' where it is not. Flags are a process's own, so each command has one.
"""

import contextlib
import io
import json
import multiprocessing
import runpy
import sys

from absl import flags

from score_jax import cli
from score_jax.config import from_config_dict
from score_jax.errors import UserError


def refusal(module, arguments):
  """What a module's flags, and the fields of --config, say to a command line; '': nothing."""
  positional, told = [], io.StringIO()
  cli.run = lambda main, arguments=(): positional.append(arguments)
  sys.argv = [module, *arguments]
  runpy.run_module(module, run_name='__main__')
  with contextlib.redirect_stderr(told):
    try:
      cli._parse(sys.argv, *positional)
      if 'config' in flags.FLAGS:
        from_config_dict(flags.FLAGS.config)
    except (SystemExit, UserError) as error:
      return told.getvalue().strip() or str(error)
  return ''


def main():
  with multiprocessing.get_context('fork').Pool(1, maxtasksperchild=1) as pool:
    print(json.dumps(pool.starmap(refusal, json.load(sys.stdin), chunksize=1)))


if __name__ == '__main__':
  main()
