# SPDX-License-Identifier: Apache-2.0
"""Pushes an exported folder to a model repository of the hub, in one commit."""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import re
import sys

from score_jax.errors import ConfigError, TryAgainError, UserError

_NAME = re.compile(r'\w[\w.-]*/\w[\w.-]*', re.ASCII)
# Of an earlier push: what would be loaded beside, or instead of, what is pushed.
_REPLACED = ('.safetensors', '.safetensors.index.json', '.bin', '.bin.index.json', 'adapter_config.json')


@dataclasses.dataclass(frozen=True)
class Target:
  """A repository OWNER/NAME that may be pushed to."""

  name: str
  private: bool

  @property
  def asked(self) -> str:
    return f'--push={self.name}'


def opened(name: str, private: bool) -> Target:
  """Returns the repository, made if it is not there, before anything costs time.

  Raises:
    ConfigError: no id, no token or one that may not write, a data set or Space of that name, a public repository where
      a private one is asked for.
    TryAgainError: the hub does not answer.
  """
  import huggingface_hub as hf
  from huggingface_hub import constants

  target, api, site = Target(name, private), hf.HfApi(), constants.ENDPOINT
  if not _NAME.fullmatch(name):
    raise ConfigError(f'{target.asked} is no hub id; write OWNER/NAME')
  with _told(target):
    api.whoami()
    if not api.repo_exists(name):
      for kind, path in dict(dataset='datasets', space='spaces').items():
        if api.repo_exists(name, repo_type=kind):
          raise ConfigError(f'{target.asked} is a {kind} ({site}/{path}/{name}), no model; choose another name')
    api.create_repo(name, private=private or None, exist_ok=True)
    if private and not api.repo_info(name).private:
      raise ConfigError(
        f'{target.asked} is public and --private was given; make it private in {site}/{name}/settings, choose another '
        'name, or leave out --private'
      )
  return target


def push(target: Target, folder: pathlib.Path, message: str) -> str:
  """Uploads the files of a folder, deletes weights that it replaces, and returns the commit's address.

  Raises as `opened`: nothing has changed in the repository then.
  """
  import huggingface_hub as hf
  from huggingface_hub import utils

  if not sys.stderr.isatty():
    utils.disable_progress_bars()
  api = hf.HfApi()
  ours = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob('*')) if path.is_file()}
  with _told(target):
    theirs = api.list_repo_files(target.name)
    old = [name for name in theirs if '/' not in name and name.endswith(_REPLACED) and name not in ours]
    operations = [hf.CommitOperationDelete(name) for name in old]
    operations += [hf.CommitOperationAdd(name, path) for name, path in ours.items()]
    return api.create_commit(target.name, operations, commit_message=message).commit_url


@contextlib.contextmanager
def _told(target: Target) -> Iterator[None]:
  """Turns what the hub's client raises into a UserError of one line."""
  from huggingface_hub import constants, errors

  site, settings = constants.ENDPOINT, f'{constants.ENDPOINT}/settings/tokens'
  owner = target.name.partition('/')[0]
  try:
    yield
  except UserError:
    raise
  except errors.LocalTokenNotFoundError as error:
    raise ConfigError(
      f'{target.asked}: there is no token; run `hf auth login`, or set HF_TOKEN to one that may write ({settings})'
    ) from error
  except errors.OfflineModeIsEnabled as error:
    raise ConfigError(f'{target.asked}: HF_HUB_OFFLINE is set; run it without') from error
  except (errors.HTTPError, OSError) as error:
    status = getattr(getattr(error, 'response', None), 'status_code', 0)
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    if status == 401:
      raise ConfigError(
        f'{target.asked}: {site} refuses the token (401); set HF_TOKEN to another ({settings})'
      ) from error
    if status == 403:
      raise ConfigError(
        f'{target.asked}: the token may not write to {owner} (403); set HF_TOKEN to one that may ({settings}), or '
        'push to a name of your own'
      ) from error
    if 400 <= status < 500 and status not in (408, 409, 412, 429):
      raise ConfigError(f'{target.asked}: {site} refuses it ({status}): {reason}') from error
    raise TryAgainError(f'{target.asked}: no answer from {site} ({reason}); run the same command again') from error
