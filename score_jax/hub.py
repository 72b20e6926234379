# SPDX-License-Identifier: Apache-2.0
"""Models and data of the Hugging Face hub, by OWNER/NAME[@REVISION] and hf:OWNER/NAME[/CONFIG]:SPLIT[@REVISION]."""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
import sys
from typing import Any

from score_jax.errors import DataError, TryAgainError

DATA = 'hf:'
READ = ('.json', '.safetensors', '.jinja', '.model', '.txt')  # of a model
_WANTED = tuple(f'*{end}' for end in READ)
_UNREAD = (*(f'*/*{end}' for end in READ if end != '.jinja'), 'consolidated*')
_CONVERTED = 'refs/convert/parquet'  # by the hub
_MODEL = re.compile(r'(\w[\w.-]*/[\w.-]+)(?:@(\S+))?')
_DATA = re.compile(DATA + r'([\w.-]+/[\w.-]+)(?:/([^:@]+))?:([\w.-]+)(?:@(\S+))?')


@dataclasses.dataclass(frozen=True)
class Repo:
  name: str
  revision: str  # '': main
  kind: str  # 'model', 'dataset'
  asked: str  # field = value

  @property
  def page(self) -> str:
    from huggingface_hub import constants

    kind = 'datasets/' if self.kind == 'dataset' else ''
    return f'{constants.ENDPOINT}/{kind}{self.name}'


class _NoRevisionError(DataError):
  pass


def model(path: str, field: str = 'config.model.path') -> Repo | None:
  """Returns the repository of an id; None: it is none, or a folder."""
  match = _MODEL.fullmatch(path)
  if not match or os.path.exists(path):
    return None
  return Repo(*match.groups(''), 'model', f'{field} = {path!r}')


def data_id(name: str) -> re.Match[str] | None:
  """Matches data of the hub; group 1 is OWNER/NAME."""
  return _DATA.fullmatch(name)


def commit(name: str) -> str:
  """Returns the commit that an id means today."""
  if repo := model(name):
    return snapshot(repo, ['config.json']).name
  return data(name)[0].name


def current(path: pathlib.Path) -> pathlib.Path:
  """Returns the snapshot of main in a repository's cache; of other folders the path."""
  home = path.parent if path.name == 'snapshots' else path
  ref, within = home / 'refs/main', home / 'snapshots'
  if not within.is_dir() or not ref.parent.is_dir():
    return path
  name = ref.read_text(errors='replace').strip() if ref.is_file() else ''
  if not re.fullmatch(r'\w+', name) or not (within / name).is_dir():
    raise DataError(f'{path}: main is not cached; name one of {within}')
  return within / name


def data(source: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
  """Returns a split's snapshot and files: the repository's Parquet, else the hub's."""
  asked = f'config.task.data = {source!r}'
  match = _DATA.fullmatch(source)
  if not match:
    raise DataError(f'{asked}: write {DATA}OWNER/NAME[/CONFIG]:SPLIT[@REVISION]')
  name, config, split, at = match.groups('')
  tops = [f'{config}/'] if config else ['', '*/']
  wanted = [f'{top}{split}{end}.parquet' for top in tops for end in ('', '-*', '/*')]
  repo = Repo(name, at, 'dataset', asked)
  for revision in [at] if at else ['', _CONVERTED]:
    repo = dataclasses.replace(repo, revision=revision)
    try:
      home = snapshot(repo, ['.gitattributes', *wanted])
    except _NoRevisionError:
      if at or not revision:
        raise
      break
    if files := [file for each in wanted for file in sorted(home.glob(each))]:
      _check(files, home, repo, config)
      return home, files
  raise DataError(f'{asked}: no Parquet of config {config!r}, split {split!r}; see {repo.page}/tree/{at or "main"}')


def _check(files: list[pathlib.Path], home: pathlib.Path, repo: Repo, config: str) -> None:
  """Refuses two configs as one, and part of a split."""
  tops = sorted({str(file.parent.relative_to(home)) for file in files})
  if not config and len(tops) > 1:
    raise DataError(f'{repo.asked}: {", ".join(tops)} have it; write {DATA}{repo.name}/CONFIG:SPLIT')
  of = re.search(r'-of-(\d{5})', files[0].name)
  if of and len(files) < int(of[1]):
    have = f'{len(files)} of {int(of[1])} files'
    raise DataError(f'{repo.asked}: {files[0].parent} has {have}; run once with a network')


def snapshot(repo: Repo, wanted: Sequence[str] = _WANTED) -> pathlib.Path:
  """Returns a folder with those files of a repository, or raises a UserError."""
  import huggingface_hub as hf
  from huggingface_hub import constants, errors, utils

  if not sys.stderr.isatty():
    utils.disable_progress_bars()
  site, kind = constants.ENDPOINT, DataError
  which = dict(repo_type=repo.kind, revision=repo.revision or None)
  which |= dict(allow_patterns=list(wanted), ignore_patterns=list(_UNREAD))
  try:
    return pathlib.Path(hf.snapshot_download(repo.name, **which))
  except errors.HFValidationError:
    why = 'no hub id; write OWNER/NAME'
  except errors.GatedRepoError:
    why = f'gated; accept its terms at {repo.page}, and set HF_TOKEN'
  except errors.RevisionNotFoundError:
    kind = _NoRevisionError
    why = f'no such revision; {repo.page}/tree/main lists them'
  except errors.RepositoryNotFoundError:
    why = f'{site} has no such {repo.kind}, nor is there such a folder; correct it or, if it is private, set HF_TOKEN'
  except (errors.HTTPError, errors.EntryNotFoundError) as error:
    cause: Any = error.__cause__ or error
    status = getattr(getattr(cause, 'response', None), 'status_code', 0)
    why = f'not in {constants.HF_HUB_CACHE}, and '
    if isinstance(cause, errors.OfflineModeIsEnabled):
      why += 'HF_HUB_OFFLINE is set; run once without it'
    elif status in (401, 403):
      why += f'{site} refuses the token ({status}); set HF_TOKEN'
    else:
      kind = TryAgainError
      why += f'no answer from {site} ({" ".join(str(cause).split())[:200]}); try again'
  raise kind(f'{repo.asked}: {why}')
