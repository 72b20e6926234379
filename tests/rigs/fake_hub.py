"""A hub on this machine, and caches of one made by hand."""

import base64
from collections.abc import Iterator
import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading
from urllib.parse import unquote

import yaml

Files = dict[str, bytes]


def commit_of(files: Files) -> str:
  """Forty hexadecimal digits that follow from the content."""
  return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def files_of(folder: pathlib.Path) -> Files:
  return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


def cached(cache: pathlib.Path, name: str, files: Files, *refs: str, kind: str = 'model') -> str:
  """Writes a repository's files as huggingface_hub keeps them, and returns their commit, which `refs` name."""
  home, commit = cache / f'{kind}s--{name.replace("/", "--")}', commit_of(files)
  for path, content in files.items():
    blob = home / 'blobs' / hashlib.sha256(content).hexdigest()
    link = home / 'snapshots' / commit / path
    for parent in (blob.parent, link.parent):
      parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    if not link.exists():
      link.symlink_to(pathlib.Path(*['..'] * (len(link.relative_to(home).parts) - 1)) / 'blobs' / blob.name)
  for ref in refs:
    file = home / 'refs' / ref
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(commit)
  return commit


class FakeHub:
  """Repositories by ('model', 'OWNER/NAME'); `asked` are the paths that were requested."""

  def __init__(self):
    self.commits: dict[tuple[str, str], dict[str, Files]] = {}
    self.refs: dict[tuple[str, str], dict[str, str]] = {}
    self.gated: set[str] = set()
    self.asked: list[str] = []
    self.tokens: dict[str, str] = {}  # who may write to which owner's repositories, by token
    self.private: set[str] = set()
    self.messages: list[str] = []  # of commits, and what `large` the uploads were
    self.large: dict[str, bytes] = {}  # by sha256
    self.broken = ''  # a path whose requests fail from now on

  def push(self, name: str, files: Files, ref: str = 'main', kind: str = 'model') -> str:
    """Makes a ref name a commit with these files, and returns it."""
    commit = commit_of(files)
    self.commits.setdefault((kind, name), {})[commit] = files
    self.refs.setdefault((kind, name), {})[ref] = commit
    return commit

  def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request."""
    self.asked.append(path)
    pattern = r'/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(revision|tree)/(.+?))?(?:\?.*)?'
    if match := re.fullmatch(pattern, path):
      kind, name, what, ref = match.groups()
    else:
      match = re.fullmatch(r'/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path)
      if not match:
        return 404, {}, b''
      kind, name, ref, what = 'dataset' if match[1] else 'model', match[2], match[3], f'file {match[4]}'
    if (kind, name) not in self.commits:
      return 401, {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'Repository not found'}, b''
    ref = unquote(ref or 'main')
    commit = self.refs[kind, name].get(ref, ref)
    files = self.commits[kind, name].get(commit)
    if files is None:
      return 404, {'X-Error-Code': 'RevisionNotFound', 'X-Error-Message': f'Invalid rev id: {ref}'}, b''
    if what in (None, 'revision'):
      siblings = [dict(rfilename=path) for path in files]
      return 200, {}, _json(id=name, sha=commit, siblings=siblings, private=name in self.private)
    if what == 'tree':
      tree = [dict(type='file', path=p, size=len(c), oid=hashlib.sha1(c).hexdigest()) for p, c in files.items()]
      return 200, {}, json.dumps(tree).encode()
    if name in self.gated:
      return 403, {'X-Error-Code': 'GatedRepo', 'X-Error-Message': 'Access is restricted'}, b''
    content = files[unquote(what.removeprefix('file '))]
    return 200, {'ETag': f'"{hashlib.sha1(content).hexdigest()}"', 'X-Repo-Commit': commit}, content

  def write(self, method: str, path: str, token: str, body: bytes, site: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what may change a repository, as hf.co answers huggingface_hub 2.4."""
    self.asked.append(path)
    path = path.partition('?')[0]
    if self.broken and re.search(self.broken, path):
      return 500, {}, b''
    if path.startswith('/large/'):
      assert hashlib.sha256(body).hexdigest() == path.removeprefix('/large/')
      self.large[path.removeprefix('/large/')] = body
      return 200, {}, b''
    if token not in self.tokens:
      return 401, {}, _json(error='Invalid username or password.')
    owner = self.tokens[token]
    if path == '/api/whoami-v2':
      return 200, {}, _json(name=owner, type='user')
    if path == '/api/validate-yaml':
      problems = card_problems(json.loads(body)['content'])
      return (400 if problems else 200), {}, _json(errors=[dict(message=text) for text in problems], warnings=[])
    if path == '/api/repos/create':
      asked = json.loads(body)
      name = f'{asked.get("organization") or owner}/{asked["name"]}'
      if not name.startswith(f'{owner}/'):
        return 403, {}, _json(error=f"You don't have the rights to create a model under the namespace {name}")
      if ('model', name) in self.commits:
        return 409, {}, _json(error='You already created this model repo', url=f'{site}/{name}')
      self.push(name, {'.gitattributes': b''})
      if asked.get('visibility') == 'private' or asked.get('private'):
        self.private.add(name)
      return 200, {}, _json(url=f'{site}/{name}', name=name, id=name)
    match = re.fullmatch(
      r'(?:/api/models)?/([^/]+/[^/]+?)(?:\.git/info/lfs/objects/batch|/(preupload|commit)/main)', path
    )
    if method != 'POST' or not match or ('model', match[1]) not in self.commits:
      return 404, {'X-Error-Code': 'RepoNotFound'}, _json(error='Repository not found')
    name = match[1]
    if not name.startswith(f'{owner}/'):
      return 403, {}, _json(error='Forbidden: you must be in the owner organization')
    if match[2] == 'preupload':
      modes = [(file['path'], 'lfs' if _is_large(file['path']) else 'regular') for file in json.loads(body)['files']]
      return 200, {}, _json(files=[dict(path=p, uploadMode=mode, shouldIgnore=False) for p, mode in modes])
    if match[2] is None:
      wanted = [{key: file[key] for key in ('oid', 'size')} for file in json.loads(body)['objects']]
      for file in wanted:
        if file['oid'] not in self.large:
          file['actions'] = dict(upload=dict(href=f'{site}/large/{file["oid"]}'))
      return 200, {}, _json(transfer='basic', objects=wanted)
    files = dict(self.commits['model', name][self.refs['model', name]['main']])
    for line in map(json.loads, body.splitlines()):
      kind, value = line['key'], line['value']
      if kind == 'header':
        self.messages.append(value['summary'])
      elif kind == 'deletedFile':
        del files[value['path']]
      elif kind == 'file':
        files[value['path']] = base64.b64decode(value['content'])
      else:
        files[value['path']] = self.large[value['oid']]
    commit = self.push(name, files)
    return 200, {}, _json(success=True, commitOid=commit, commitUrl=f'{site}/{name}/commit/{commit}', hookOutput='')

  def files(self, name: str) -> Files:
    return self.commits['model', name][self.refs['model', name]['main']]


def card_problems(content: str) -> list[str]:
  """What the hub says of a model card's front matter, as far as https://huggingface.co/docs/hub/model-cards tells."""
  match = re.match(r'---\n(.*?)\n---\n', content, re.DOTALL)
  if not match:
    return ['"metadata" is missing']
  fields = yaml.safe_load(match[1])
  id_ = r'[\w.-]+/[\w.-]+'
  problems = [] if isinstance(fields, dict) else ['"metadata" must be an object']
  bases = fields.get('base_model', [])
  for base in [bases] if isinstance(bases, str) else bases:
    problems += [] if re.fullmatch(id_, base) else [f'"base_model" {base!r} is no id']
  for field in ('tags', 'datasets'):
    values = fields.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
      problems.append(f'"{field}" must be an array of strings')
  problems += [f'"datasets" {name!r} is no id' for name in fields.get('datasets', []) if not re.fullmatch(id_, name)]
  for field in ('library_name', 'pipeline_tag'):
    problems += [] if isinstance(fields.get(field, ''), str) else [f'"{field}" must be a string']
  for model in fields.get('model-index', []):
    for result in model['results'] if model.get('name') else ({},):
      if not result.get('task', {}).get('type') or not {'type', 'name'} <= result.get('dataset', {}).keys():
        problems.append('"model-index" needs a name, and of each result a task and a dataset')
      for metric in result.get('metrics', []):
        if not {'type', 'value'} <= metric.keys() or not isinstance(metric['value'], float | int):
          problems.append('"model-index" needs the type and value of a metric')
  return problems


def _is_large(path: str) -> bool:
  return path.endswith('.safetensors')


def _json(**fields) -> bytes:
  return json.dumps(fields).encode()


class _Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *args) -> None:
    pass

  def _serve(self) -> None:
    self._answer(*self.server.hub.answer(self.path))

  def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
    self.send_response(status)
    for name, value in (headers | {'Content-Length': str(len(body))}).items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)

  def _write(self) -> None:
    if self.headers.get('Transfer-Encoding') == 'chunked':
      parts = []
      while size := int(self.rfile.readline(), 16):
        parts.append(self.rfile.read(size))
        self.rfile.readline()
      self.rfile.readline()
      body = b''.join(parts)
    else:
      body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    site, token = f'http://{self.headers["Host"]}', self.headers.get('Authorization', '').removeprefix('Bearer ')
    self._answer(*self.server.hub.write(self.command, self.path, token, body, site))

  def do_GET(self) -> None:
    if self.path == '/api/whoami-v2':
      self._write()
    else:
      self._serve()

  do_HEAD = do_GET
  do_POST = do_PUT = _write


@contextlib.contextmanager
def serving() -> Iterator[tuple[FakeHub, str]]:
  """A hub without repositories, and its address."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
  server.daemon_threads, server.hub = True, FakeHub()
  threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
  try:
    yield server.hub, f'http://127.0.0.1:{server.server_port}'
  finally:
    server.shutdown()
    server.server_close()
