# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can fix, and the exit codes of the commands.

Every message names the field or file, its value and the remedy. The commands print it as one line and exit with the
code of its class; any other exception is a bug and keeps its traceback.
"""

# The one table of exit codes. 65, 70, 75 and 78 are those of sysexits.h. Code 1 is a bug, with its traceback.
EXIT_CODES = {
  0: 'done',
  65: 'a model folder, data file or checkpoint cannot be used: the same command ends the same way',
  69: 'launch/retry.sh gave up: too many restarts without progress',
  70: 'numerics: training left its limits; the last good checkpoint is kept',
  75: 'stopped or hindered from outside: run the same command again',
  76: 'stopped by an alarm that config.report.stop_on names; that step is saved',
  78: 'configuration: a field, flag or folder is wrong',
}


class UserError(Exception):
  """Base of the errors that are the input's fault, not the program's."""

  exit_code = 1


class ConfigError(UserError):
  """A configuration field, file or flag is wrong, or belongs to another run."""

  exit_code = 78


class DataError(UserError):
  """A model folder, tokenizer, template, problem or checkpoint can't be used."""

  exit_code = 65


class SandboxError(UserError):
  """This host cannot contain model-written programs, or the sandbox did not start."""

  exit_code = 78


class StoppedError(UserError):
  """An alarm that config.report.stop_on names has sounded; everything up to that step is saved."""

  exit_code = 76


class NumericsError(UserError):
  """Training produced non-finite numbers, or left a limit that the configuration sets."""

  exit_code = 70


class TryAgainError(UserError):
  """The same command, run again, goes on: the run was stopped, or the machine failed it."""

  exit_code = 75


class StoreError(TryAgainError, OSError):
  """An object store did not answer, or broke off. What was to be written there is not written."""


class StoreRefusalError(ConfigError, OSError):
  """An object store does not let this process in: no such bucket, no permission, no credentials."""


class TakenOverError(ConfigError):
  """Another process goes on with this run where its checkpoints are; starting this one again would disturb it."""


class HostError(TryAgainError):
  """A host of the run was lost, came late or fell out of step: nothing is wrong with the input; start all again."""
