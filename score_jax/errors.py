# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can fix, and the exit codes of the commands.

Every message names the field or file, its value and the remedy. Any other exception is a bug.
"""

# 65, 70, 75 and 78 are those of sysexits.h; 1 is a bug.
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
  """Base of the errors that are not the program's fault."""

  exit_code = 1


class ConfigError(UserError):
  """A configuration field, file or flag is wrong, or belongs to another run."""

  exit_code = 78


class DataError(UserError):
  """A model folder, tokenizer, template, problem or checkpoint can't be used."""

  exit_code = 65


class SandboxError(UserError):
  """This host cannot contain programs, or the sandbox did not start."""

  exit_code = 78


class StoppedError(UserError):
  """An alarm that config.report.stop_on names has sounded; that step is saved."""

  exit_code = 76


class NumericsError(UserError):
  """Training produced non-finite numbers, or left a limit of the configuration."""

  exit_code = 70


class TryAgainError(UserError):
  """The run was stopped, or the machine failed it: the same command goes on."""

  exit_code = 75


class StoreError(TryAgainError, OSError):
  """An object store did not answer, or broke off; nothing is written there."""


class StoreRefusalError(ConfigError, OSError):
  """An object store refuses: no such bucket, no permission, no credentials."""


class TakenOverError(ConfigError):
  """Another process goes on with this run; starting this one again would disturb it."""


class HostError(TryAgainError):
  """A host of the run was lost, came late or fell out of step: start all again."""
