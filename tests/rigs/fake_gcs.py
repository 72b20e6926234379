"""A small Google Cloud Storage in this process: the part of its JSON API that TensorStore and gcsfs use for a run.

Written from the public description of the API, and no more than these clients ask for: objects with generations and
preconditions, lists by prefix and delimiter, uploads in one piece, multipart and resumable. It keeps objects in memory,
so tests can look at them, flip their bits and take them away. Against Google, gcsfs deletes in batches; elsewhere, as
here, one by one.
"""

import base64
from collections.abc import Callable, Iterator
import contextlib
import hashlib
import http.server
import itertools
import json
import pathlib
import re
import threading
from typing import Any
import urllib.parse


class FakeGcs:
  """The server and what is in it: `objects[bucket][name]` is (bytes, generation)."""

  def __init__(self, *buckets: str):
    self.objects: dict[str, dict[str, tuple[bytes, int]]] = {bucket: {} for bucket in buckets}
    self.lock = threading.RLock()
    self.fault: Callable[[str, str, str], int] = lambda method, kind, name: 0  # HTTP status instead of an answer
    self.generations = itertools.count(1_700_000_000_000_000)
    self.sessions: dict[str, tuple[str, str, dict[str, str], bytearray]] = {}  # of resumable uploads
    self._server = _Server(('127.0.0.1', 0), _Handler)
    self._server.fake = self
    threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self._server.server_address[1]}'

  def environment(self) -> dict[str, str]:
    """What sends the clients here instead of to Google."""
    return dict(
      TENSORSTORE_GCS_HTTP_URL=self.url,
      GOOGLE_AUTH_TOKEN_FOR_TESTING='nobody',
      STORAGE_EMULATOR_HOST=self.url,
      GOOGLE_CLOUD_PROJECT='none',
    )

  def close(self) -> None:
    self._server.shutdown()
    self._server.server_close()

  def names(self, bucket: str, prefix: str = '') -> list[str]:
    with self.lock:
      return sorted(name for name in self.objects[bucket] if name.startswith(prefix))

  def read(self, bucket: str, name: str) -> bytes:
    return self.objects[bucket][name][0]

  def download(self, bucket: str, prefix: str, folder: pathlib.Path) -> None:
    """A run as a run folder: checkpoints of all its starts in one folder."""
    for name in self.names(bucket, prefix):
      path = folder / re.sub(r'^starts/[^/]+/checkpoints/', 'checkpoints/', name.removeprefix(prefix))
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(self.read(bucket, name))

  def put(self, bucket: str, name: str, data: bytes) -> int:
    with self.lock:
      generation = next(self.generations)
      self.objects[bucket][name] = (data, generation)
      return generation

  def delete(self, bucket: str, name: str) -> None:
    with self.lock:
      del self.objects[bucket][name]


@contextlib.contextmanager
def serving(*buckets: str) -> Iterator[FakeGcs]:
  """A server with these buckets, empty."""
  fake = FakeGcs(*buckets)
  try:
    yield fake
  finally:
    fake.close()


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True
  request_queue_size = 128
  fake: FakeGcs

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Clients that are killed leave their connections."""


class _Answer(Exception):
  """Ends a request."""

  def __init__(self, status: int, body: Any = None, headers: dict[str, str] | None = None):
    super().__init__(status)
    self.status, self.body, self.headers = status, body, headers or {}


def _error(status: int, message: str) -> _Answer:
  return _Answer(status, dict(error=dict(code=status, message=message, errors=[dict(message=message)])))


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'
  disable_nagle_algorithm = True

  def log_message(self, *args: Any) -> None:
    pass

  def _serve(self) -> None:
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    try:
      answer = _route(self.server.fake, self.command, self.path, body, self.headers)
    except _Answer as raised:
      answer = raised
    self._send(answer)

  do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve

  def _send(self, answer: _Answer) -> None:
    body = answer.body
    if not isinstance(body, bytes):
      body = json.dumps(body).encode() if body is not None else b''
      answer.headers.setdefault('Content-Type', 'application/json; charset=UTF-8')
    self.send_response(answer.status)
    for name, value in answer.headers.items():
      self.send_header(name, value)
    if answer.status != 204:
      self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if self.command != 'HEAD' and answer.status != 204:
      self.wfile.write(body)


def _route(fake: FakeGcs, method: str, path: str, body: bytes, headers: Any) -> _Answer:
  url = urllib.parse.urlsplit(path)
  query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
  resource = re.fullmatch(r'(/upload|/download)?(?:/storage/v1)?/b/([^/]+)/o(?:/(.+))?', url.path)
  if not resource:  # such as what a bucket is, which needs another role
    raise _error(404, f'no such resource: {url.path}')
  bucket, name = resource[2], urllib.parse.unquote(resource[3] or '') or query.get('name', '')
  kind = 'upload' if resource[1] == '/upload' else 'object' if resource[3] else 'list'
  if kind == 'upload' and not name and 'upload_id' not in query:
    name = _described(body, headers)['name']
  kind = 'media' if query.get('alt') == 'media' else kind
  if status := fake.fault(method, kind, name):
    raise _error(status, f'{method} of {name!r} is answered with {status}')
  if bucket not in fake.objects:
    raise _error(404, 'The specified bucket does not exist.')
  with fake.lock:
    if kind == 'upload':
      return _upload(fake, bucket, name, query, body, headers)
    if kind == 'list':
      return _list(fake, bucket, query)
    data, generation = _existing(fake, bucket, name, query)
    if method == 'DELETE':
      fake.delete(bucket, name)
      return _Answer(204)
    if kind == 'media':
      return _media(data, generation, headers)
    return _Answer(200, _resource(fake, bucket, name))


def _existing(fake: FakeGcs, bucket: str, name: str, query: dict[str, str] | None = None) -> tuple[bytes, int]:
  """An object that is there, if the preconditions allow."""
  stored = fake.objects[bucket].get(name)
  _check(stored[1] if stored else 0, query or {})
  if stored is None or (query or {}).get('generation', str(stored[1])) != str(stored[1]):
    raise _error(404, f'No such object: {bucket}/{name}')
  return stored


def _check(generation: int, query: dict[str, str]) -> None:
  if 'ifGenerationMatch' in query and int(query['ifGenerationMatch']) != generation:
    raise _error(412, 'At least one of the pre-conditions you specified did not hold.')
  if 'ifGenerationNotMatch' in query and int(query['ifGenerationNotMatch']) == generation:
    raise _Answer(304)


def _resource(fake: FakeGcs, bucket: str, name: str) -> dict[str, Any]:
  data, generation = fake.objects[bucket][name]
  time = '2026-01-01T00:00:00.000Z'
  return dict(
    kind='storage#object', id=f'{bucket}/{name}/{generation}', name=name, bucket=bucket, generation=str(generation),
    metageneration='1', contentType='application/octet-stream', storageClass='STANDARD', size=str(len(data)),
    md5Hash=base64.b64encode(hashlib.md5(data).digest()).decode(), etag='e', timeCreated=time, updated=time,
  )  # fmt: skip


def _media(data: bytes, generation: int, headers: Any) -> _Answer:
  about = {'X-Goog-Generation': str(generation), 'Content-Type': 'application/octet-stream', 'ETag': '"e"'}
  wanted = re.fullmatch(r'bytes=(\d+)-(\d*)', headers.get('Range') or '')
  if not wanted:
    return _Answer(200, data, about)
  begin, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
  return _Answer(206, data[begin : end + 1], about | {'Content-Range': f'bytes {begin}-{end}/{len(data)}'})


def _list(fake: FakeGcs, bucket: str, query: dict[str, str]) -> _Answer:
  prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
  items, prefixes = [], []
  for name in fake.names(bucket, prefix):
    if name <= query.get('pageToken', ''):
      continue
    if delimiter and delimiter in name[len(prefix) :]:
      folder = name[: name.index(delimiter, len(prefix)) + len(delimiter)]
      if folder not in prefixes:
        prefixes.append(folder)
      continue
    items.append(_resource(fake, bucket, name))
    if len(items) == int(query.get('maxResults', 1000)):
      break
  page: dict[str, Any] = dict(kind='storage#objects', items=items, prefixes=prefixes)
  if len(items) == int(query.get('maxResults', 1000)):
    page['nextPageToken'] = items[-1]['name']
  return _Answer(200, {key: value for key, value in page.items() if value})


def _described(body: bytes, headers: Any) -> dict[str, Any]:
  """What an upload says of its object: the whole body, or the first part of several."""
  if parts := re.search(r'boundary="?([^";]+)', headers.get('Content-Type') or ''):
    _, body, _ = body.split(b'--' + parts[1].strip("'").encode(), 2)
    body = re.split(rb'\r?\n\r?\n', body, maxsplit=1)[1]
  return json.loads(body)


def _upload(fake: FakeGcs, bucket: str, name: str, query: dict[str, str], body: bytes, headers: Any) -> _Answer:
  if 'upload_id' in query:
    return _continued(fake, query['upload_id'], body, headers)
  kind = query['uploadType']
  if kind == 'resumable':
    number = f'session{next(fake.generations)}'
    fake.sessions[number] = (bucket, name, query, bytearray())
    address = f'{fake.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}'
    return _Answer(200, b'', {'Location': address})
  if kind == 'multipart':
    boundary = re.search(r'boundary="?([^";]+)', headers['Content-Type'])[1].strip("'").encode()
    _, _, rest = body.split(b'--' + boundary, 2)
    data = re.split(rb'\r?\n\r?\n', rest, maxsplit=1)[1]
    data = data[: data.rindex(b'--' + boundary)]
    data = data[:-2] if data.endswith(b'\r\n') else data[:-1]
    return _stored(fake, bucket, name, data, query)
  return _stored(fake, bucket, name, body, query)


def _stored(fake: FakeGcs, bucket: str, name: str, data: bytes, query: dict[str, str]) -> _Answer:
  stored = fake.objects[bucket].get(name)
  _check(stored[1] if stored else 0, query)
  fake.put(bucket, name, data)
  return _Answer(200, _resource(fake, bucket, name))


def _continued(fake: FakeGcs, number: str, body: bytes, headers: Any) -> _Answer:
  """A part of a resumable upload; the last one says how long the whole is."""
  bucket, name, query, data = fake.sessions[number]
  wanted = re.fullmatch(r'bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)', headers.get('Content-Range') or '')
  data += body
  if wanted and wanted[3] == '*' or wanted and int(wanted[3]) != len(data):
    return _Answer(308, b'', {'Range': f'bytes=0-{len(data) - 1}'} if data else {})
  del fake.sessions[number]
  return _stored(fake, bucket, name, bytes(data), query)
