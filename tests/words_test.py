"""The project speaks the field's words: what version 0.1 called otherwise does not come back."""

import builtins
import io
import keyword
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
EVERYWHERE = (
  'doors', 'visit', 'visits', 'keeper', 'mended', 'can not', 'carried', 'lanes', 'lane', 'seam', 'pays', 'so many',
)  # fmt: skip
IDENTIFIERS = (
  'places', 'place', 'repairs', 'sources', 'trials', 'boards', 'edits', 'safe', 'ask', 'floors', 'frames', 'how', 'way',
  'said', 'found', 'rooms',
)  # fmt: skip
DOCS = ('rooms',)
# What may hold such words: this list, the table of old names, published results, the history.
EXEMPT = ('tests/words_test.py', 'experiments/results/', 'docs/results_real.md', 'CHANGELOG.md')
# The keys of metrics.jsonl, rows and results keep their names; a lane dimension is a TPU term.
ALLOWED = {
  'visit': re.compile(r"""['"`]visit['"`]|\bvisit=|visit\{|visit\d|visit\*"""),
  'lane': re.compile(r'lane dimension|num_lanes|NUM_LANES|\blane\b.*\bsublane|sublane'),
  'lanes': re.compile(r'128 lanes|NUM_LANES|num_lanes|sublane'),
}
# Names of other libraries and of the files that keep their keys.
LIBRARIES = {
  'safe_open',
  'safe_load',
  'safe_substitute',
  'SafeLoader',
  'is_safe',
  'type_safe',
  'EntryNotFoundError',
  'PackageNotFoundError',
  'LocalTokenNotFoundError',
  'RevisionNotFoundError',
  'RepositoryNotFoundError',
  'data_sources',
  *dir(builtins),
}


def files(*endings: str) -> list[pathlib.Path]:
  """Every file of the project with one of the endings that may not hold the words."""
  kept = []
  for folder in ('score_jax', 'configs', 'experiments', 'benchmarks', 'examples', 'launch', 'docs', 'tests', '.'):
    paths = (ROOT / folder).glob('*') if folder == '.' else (ROOT / folder).rglob('*')
    kept += [path for path in paths if path.suffix in endings and path.is_file()]
  names = {path.resolve().relative_to(ROOT.resolve()).as_posix() for path in kept if '.venv' not in path.parts}
  return [ROOT / name for name in sorted(names) if not name.startswith(EXEMPT)]


def lines_with(path: pathlib.Path, words: tuple[str, ...]) -> list[str]:
  """'file:line word' of every line that holds one of the words."""
  pattern = {word: re.compile(rf'(?<![\w-]){re.escape(word)}(?![\w-])', re.IGNORECASE) for word in words}
  hits = []
  for number, line in enumerate(path.read_text().splitlines(), start=1):
    for word, regex in pattern.items():
      if regex.search(line) and not (word in ALLOWED and ALLOWED[word].search(line)):
        hits.append(f'{path.relative_to(ROOT)}:{number} {word}: {line.strip()[:80]}')
  return hits


def test_words_that_go_everywhere_are_gone():
  hits = [
    hit
    for path in files('.py', '.md', '.sh', '.js', '.html', '.yaml', '.ipynb')
    for hit in lines_with(path, EVERYWHERE)
  ]
  assert not hits, '\n'.join(hits)


def test_docs_do_not_speak_of_rooms():
  hits = [hit for path in files('.md') for hit in lines_with(path, DOCS)]
  assert not hits, '\n'.join(hits)


def test_no_name_is_one_of_the_words():
  hits = []
  for path in files('.py'):
    if set(path.stem.split('_')) & set(IDENTIFIERS):
      hits.append(f'{path.relative_to(ROOT)}: the name of the file')
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
      if token.type == tokenize.NAME and not keyword.iskeyword(token.string) and token.string not in LIBRARIES:
        parts = set(re.split(r'_|(?<=[a-z])(?=[A-Z])', token.string))
        if {part.lower() for part in parts} & set(IDENTIFIERS):
          hits.append(f'{path.relative_to(ROOT)}:{token.start[0]} {token.string}')
  assert not hits, f'{len(hits)} names\n' + '\n'.join(hits)


@pytest.mark.parametrize('text', ['the doors of it', 'a lane', 'It can not be', 'Pays twice'])
def test_the_search_sees_them(text, tmp_path, monkeypatch):
  monkeypatch.setattr('words_test.ROOT', tmp_path)
  (tmp_path / 'page.md').write_text(f'# Title\n{text}\n')
  assert len(lines_with(tmp_path / 'page.md', EVERYWHERE)) == 1
