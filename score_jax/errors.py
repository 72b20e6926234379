"""What goes wrong for a reason that the user can mend.

Every message names the field or file, the value found there and the remedy. The doors (`main`, `evaluate`,
`export`, `inspect`, `bench`) print it as one line and exit with the code beside it; anything else is a bug and keeps
its traceback.
"""


class UserError(Exception):
  """Base of the errors that are the input's fault, not the program's."""

  exit_code = 1


class ConfigError(UserError):
  """A configuration field, file or flag is wrong, or belongs to another run."""

  exit_code = 78


class DataError(UserError):
  """A model folder, tokenizer, template, problem or checkpoint can't be used."""

  exit_code = 65


class StoppedError(UserError):
  """An alarm that config.report.stop_on names has sounded; everything up to that step is saved."""

  exit_code = 76


class SandboxError(UserError):
  """This host can't hold programs that nobody has read, or the sandbox did not start."""

  exit_code = 78


class NumericsError(UserError):
  """Training produced non-finite numbers too often in a row."""

  exit_code = 70
