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


class NumericsError(UserError):
  """Training produced non-finite numbers too often in a row."""

  exit_code = 70


class HostError(UserError):
  """A host of the run was lost, came late or fell out of step: nothing is wrong with the input; start all again."""

  exit_code = 75
