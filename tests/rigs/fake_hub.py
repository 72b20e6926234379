"""A hub on this machine, and caches of one made by hand."""

from collections.abc import Iterator
import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading
from urllib.parse import unquote

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

  def push(self, name: str, files: Files, ref: str = 'main', kind: str = 'model') -> str:
    """Makes a ref name a commit with these files, and returns it."""
    commit = commit_of(files)
    self.commits.setdefault((kind, name), {})[commit] = files
    self.refs.setdefault((kind, name), {})[ref] = commit
    return commit

  def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of a request."""
    self.asked.append(path)
    pattern = r'/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree)/(.+?))?(?:\?.*)?'
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
      return 200, {}, json.dumps(dict(id=name, sha=commit, siblings=[])).encode()
    if what == 'tree':
      tree = [dict(type='file', path=p, size=len(c), oid=hashlib.sha1(c).hexdigest()) for p, c in files.items()]
      return 200, {}, json.dumps(tree).encode()
    if name in self.gated:
      return 403, {'X-Error-Code': 'GatedRepo', 'X-Error-Message': 'Access is restricted'}, b''
    content = files[unquote(what.removeprefix('file '))]
    return 200, {'ETag': f'"{hashlib.sha1(content).hexdigest()}"', 'X-Repo-Commit': commit}, content


class _Handler(http.server.BaseHTTPRequestHandler):
  def log_message(self, *args) -> None:
    pass

  def _serve(self) -> None:
    status, headers, body = self.server.hub.answer(self.path)
    self.send_response(status)
    for name, value in (headers | {'Content-Length': str(len(body))}).items():
      self.send_header(name, value)
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)

  do_GET = do_HEAD = _serve


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
