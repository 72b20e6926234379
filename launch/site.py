# SPDX-License-Identifier: Apache-2.0
"""What the site has beside docs/, as hooks of mkdocs.

README becomes the first page. The reference is read from the code: fields from configs/common.py, flags from the
commands. Pages link to files of the repository, which the site has under `files/`: text as it is, Markdown as pages.
"""

import ast
from collections.abc import Callable, Iterator
import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / 'score_jax'
_FILES = 'files'  # of the site, for files of the repository
_LINK = re.compile(r'(!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()([^)\s#]+)((?:#[^)\s]*)?\))')
_TAG = re.compile(r'(<(?:img|source)\b[^>]*?\b(?:src|srcset)=")([^"]+)(")')
_CODE = re.compile(r'(```.*?```|`[^`\n]*`)', re.DOTALL)
_PUBLIC = 'score_jax'
_BESIDE = ('graders.math.grader.grade', 'graders.code.grader.CodeGrader', 'reporting.notebook.show_report')
_API = """# From Python

`import score_jax` imports little; each name is imported when it is first used. The graders need no jax:
`from score_jax.graders import math, code`.

"""


def on_files(files, config):
  """Adds pages that are made, and the files that pages link to."""
  pages = {'index.md': (ROOT / 'README.md').read_text()}
  pages['reference/config.md'] = config_page(ROOT / 'score_jax/configs/common.py')
  pages['reference/commands.md'] = commands_page()
  pages['reference/api.md'] = api_page()
  for uri, text in pages.items():
    files.append(File.generated(config, uri, content=text))
  known = {page.relative_to(ROOT).as_posix(): page.read_text() for page in ROOT.glob('docs/*.md')}
  for path in linked(known | {'README.md': pages['index.md']}):
    files.append(File.generated(config, site_uri(path), abs_src_path=str(ROOT / path)))
  return files


def on_page_markdown(markdown, page, config, files):
  """Turns links to files of the repository into links within the site."""
  here = page.file.src_uri
  return with_links(markdown, lambda target: relinked(here, target))


def linked(pages: dict[str, str]) -> list[str]:
  """Returns the files of the repository, outside of docs/, that pages and pages among these link to.

  `pages` are Markdown by path. A folder stands for all its files.
  """
  waiting, done = list(pages.items()), {}
  while waiting:
    path, text = waiting.pop()
    targets = []
    with_links(text, lambda target, targets=targets: targets.append(target) or target)
    for target in targets:
      wanted = repository_path(path, target)
      for file in _files_of(wanted) if wanted and not wanted.startswith('docs/') and wanted != 'README.md' else ():
        if file not in done:
          done[file] = None
          if file.endswith('.md'):
            waiting.append((file, (ROOT / file).read_text()))
  return sorted(done)


def _files_of(path: str) -> Iterator[str]:
  whole = ROOT / path
  if whole.is_file():
    yield path
  elif whole.is_dir():
    for inside in sorted(whole.rglob('*')):
      if inside.is_file() and '__pycache__' not in inside.parts:
        yield inside.relative_to(ROOT).as_posix()


def repository_path(page: str, target: str) -> str:
  """Returns the file of the repository that a page's link names, '': none."""
  if re.match(r'[a-z]+:', target):
    return ''
  path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
  return path if not path.startswith('..') and (ROOT / path).exists() else ''


def site_uri(path: str) -> str:
  """Returns where the site has a file of the repository; a program ends in .txt, which browsers show."""
  if path == 'README.md':
    return 'index.md'
  if path.startswith('docs/'):
    return path.removeprefix('docs/')
  shown = ('.md', '.png', '.txt', '.json', '.jsonl', '.html', '.ipynb')
  return f'{_FILES}/{path}' + ('' if path.endswith(shown) or '.' not in posixpath.basename(path) else '.txt')


def relinked(here: str, target: str) -> str:
  """Returns a link of the page `here` (of the site) as the site needs it."""
  source = here.removeprefix(f'{_FILES}/') if here.startswith(f'{_FILES}/') else f'docs/{here}'
  source = 'README.md' if here == 'index.md' else source
  path = repository_path(source, target)
  if not path:
    return target
  if (ROOT / path).is_dir():
    path = min(_files_of(path), key=lambda file: (not file.endswith('README.md'), file.count('/'), file))
  return posixpath.relpath(site_uri(path), posixpath.dirname(here) or '.')


def with_links(markdown: str, changed: Callable[[str], str]) -> str:
  """Returns Markdown with its links' targets changed, but for those in code."""
  codes: list[str] = []
  kept = _CODE.sub(lambda match: codes.append(match[0]) or f'\0{len(codes) - 1}\0', markdown)
  for link in (_LINK, _TAG):
    kept = link.sub(lambda match: match[1] + changed(match[2]) + match[3], kept)
  return re.sub('\0([0-9]+)\0', lambda match: codes[int(match[1])], kept)


# The reference.


def config_page(path: pathlib.Path) -> str:
  """Returns a page of all fields of configs/common.py: name, default, and the comment that explains it."""
  lines = ['# Configuration', '', 'Fields of `configs/common.py`; `--config.FIELD=VALUE` sets one.', '']
  for section, (about, fields) in config_sections(path).items():
    lines += [f'## {section}', '', about, '', '| field | default | |', '|---|---|---|']
    lines += [f'| `{name}` | {_code(default)} | {_cell(about)} |' for name, default, about in fields]
    lines.append('')
  return '\n'.join(lines)


def config_sections(path: pathlib.Path) -> dict[str, tuple[str, list[tuple[str, str, str]]]]:
  """Returns, by section ('config.model', ...), what it says of itself, and (name, default, comment) of each field."""
  text = path.read_text()
  source, functions = text.splitlines(), {f.name: f for f in ast.parse(text).body if isinstance(f, ast.FunctionDef)}
  sections, waiting = {}, [('config', 'get_config')]
  while waiting:
    section, name = waiting.pop(0)
    fields, called = {}, []
    for statement in _statements(name, functions):
      target = statement.targets[0] if isinstance(statement, ast.Assign) else None
      if not isinstance(target, ast.Attribute):
        continue
      _, _, field = ast.unparse(target).partition('.')
      parts = [(field, node) for node in [statement.value] if isinstance(node, ast.Call)]
      parts += [(f'{field}.{k.arg}', k.value) for k in ast.walk(statement.value) if isinstance(k, ast.keyword)]
      here = [(part, node.func.id) for part, node in parts if isinstance(node, ast.Call) and _name(node) in functions]
      called += [(f'{section}.{part}', function) for part, function in here]
      if not here:
        group = isinstance(statement.value, ast.Call)  # of fields that follow
        default = '' if group else ast.get_source_segment(text, statement.value) or ''
        full, about = f'{section}.{field}', _comment(source, statement)
        earlier = fields.pop(full, ('', '', ''))  # of the section that it begins as
        fields[full] = full, ' '.join(default.split()), about or earlier[2]
    sections[section] = _paragraph(ast.get_docstring(functions[name]) or ''), list(fields.values())
    waiting += called
  return sections


def _statements(name: str, functions: dict[str, ast.FunctionDef]) -> Iterator[ast.stmt]:
  """Yields what a function of configs/common.py does, after what another does that makes its section first."""
  for statement in functions[name].body:
    begun = isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name) and statement.value
    if isinstance(begun, ast.Call) and _name(begun) in functions:
      yield from _statements(_name(begun), functions)
    yield statement


def _name(call: ast.Call) -> str:
  return call.func.id if isinstance(call.func, ast.Name) else ''


def _comment(source: list[str], statement: ast.stmt) -> str:
  """Returns the comment before a statement, and the one behind it."""
  first = statement.lineno - 1
  while first and source[first - 1].strip().startswith('#'):
    first -= 1
  before = [line.strip().lstrip('# ') for line in source[first : statement.lineno - 1]]
  _, mark, behind = source[statement.end_lineno - 1][statement.end_col_offset :].partition('#')
  return ' '.join([*before, behind.strip() if mark else '']).strip()


def commands_page() -> str:
  """Returns a page of all commands and their flags."""
  table = next(
    ast.literal_eval(node.value)
    for node in ast.parse((PACKAGE / 'cli.py').read_text()).body
    if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'COMMANDS'
  )
  lines = ['# Commands', '', '`score-jax NAME` is `python -m MODULE`; `--help` lists the flags. Exit codes: '
           '[faults.md](../faults.md).', '']  # fmt: skip
  shared = flags_of(PACKAGE / 'cli.py')
  for name, module in table.items():
    path = ROOT / (module.replace('.', '/') + '.py')
    tree = ast.parse(path.read_text())
    lines += [f'## {name}', '', f'`{module}`. ' + _paragraph(ast.get_docstring(tree) or ''), '']
    flags = [flag for helper, defined in shared.items() if f'cli.{helper}(' in path.read_text() for flag in defined]
    flags += [flag for defined in flags_of(path).values() for flag in defined]
    lines += ['| flag | default | |', '|---|---|---|']
    lines += [f'| `--{flag}` | {_code(default)} | {_cell(about)} |' for flag, default, about in flags]
    lines.append('')
  return '\n'.join(lines)


def flags_of(path: pathlib.Path) -> dict[str, list[tuple[str, str, str]]]:
  """Returns (name, default, meaning) of the flags that a file defines, by the function that does; '': at its top."""
  flags: dict[str, list[tuple[str, str, str]]] = {}
  tree = ast.parse(path.read_text())
  for node in tree.body:
    function = node.name if isinstance(node, ast.FunctionDef) else ''
    for call in ast.walk(node):
      if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr.startswith('DEFINE_'):
        name, *rest = (_value(argument, node) for argument in call.args)
        about = rest[2] if call.func.attr == 'DEFINE_enum' else rest[1] if len(rest) > 1 else ''
        flags.setdefault(function, []).append((name, rest[0], about))
  return flags


def _value(argument: ast.expr, scope: ast.AST) -> str:
  """Returns an argument as text: a literal's value, a local name's, or what stands there."""
  if isinstance(argument, ast.Name):
    values = [
      n.value for n in ast.walk(scope) if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == argument.id
    ]
    argument = values[0] if values else argument
  try:
    return str(ast.literal_eval(argument))
  except ValueError:
    return ast.unparse(argument)


def api_page() -> str:
  """Returns a page that mkdocstrings fills with the public names."""
  modules = next(
    ast.literal_eval(node.value)
    for node in ast.parse((PACKAGE / '__init__.py').read_text()).body
    if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '_MODULES'
  )
  names = {name: f'{_PUBLIC}.{module}.{name}' for module, names in modules.items() for name in names}
  names |= {module: f'{_PUBLIC}.algorithm.{module}' for module in ('losses', 'rewards')}
  names |= {name.rpartition('.')[2]: f'{_PUBLIC}.{name}' for name in _BESIDE}
  return _API + '\n'.join(f'::: {names[name]}\n' for name in sorted(names, key=str.lower))


def _paragraph(text: str) -> str:
  return ' '.join(text.split())


def _cell(text: str) -> str:
  return _paragraph(text).replace('|', '\\|').replace('<', '&lt;')


def _code(text: str) -> str:
  return f'`{_paragraph(text)}`'.replace('|', '\\|') if text else ''
