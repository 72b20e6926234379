"""A server of Weights & Biases on this machine, as far as wandb 0.31 asks one: runs, and their histories."""

from collections.abc import Iterator
import contextlib
import gzip
import http.server
import json
import re
import threading
from typing import Any


class FakeWandb:
  """Steps in the order in which a run's history has them, by the run's id."""

  def __init__(self):
    self.steps: dict[str, list[int]] = {}
    self.begun: dict[str, dict[str, Any]] = {}  # what a run was made with

  def graphql(self, asked: dict[str, Any], site: str) -> dict[str, Any]:
    """The data of an answer."""
    match, given = re.search(r'(?:query|mutation)\s+(\w+)', asked['query']), asked.get('variables') or {}
    name, entity = match and match[1], dict(id='e', name='me')
    if name in ('Viewer', 'ServerInfo'):
      viewer = dict(id='v', entity='me', username='me', flags='{}', teams=dict(edges=[]))
      return dict(viewer=viewer, serverInfo=dict(cliVersionInfo={}, latestLocalVersionInfo=None, features=[]))
    if name == 'RunResumeStatus':
      run = self._run(given['name']) if given['name'] in self.steps else None
      return dict(model=dict(id='p', name='p', entity=entity, bucket=run))
    if name == 'UpsertBucket':
      new = given['name'] not in self.steps
      self.steps.setdefault(given['name'], [])
      self.begun.setdefault(given['name'], given)
      return dict(upsertBucket=dict(bucket=self._run(given['name']), inserted=new))
    if name == 'CreateRunFiles':
      files = [dict(name=file, uploadUrl=f'{site}/files/{file}') for file in given['files']]
      return dict(createRunFiles=dict(runID='x', uploadHeaders=[], files=files))
    return {}

  def stream(self, id: str, files: dict[str, Any]) -> None:
    """Takes lines of a run's files; a line that was sent before is written over."""
    for name, part in files.items():
      if 'history' in name:
        steps = [json.loads(line)['_step'] for line in part['content']]
        self.steps[id][part['offset'] :] = steps

  def _run(self, id: str) -> dict[str, Any]:
    steps = self.steps[id]
    tail = [json.dumps(dict(_step=steps[-1], _runtime=1))] if steps else []
    counts = dict(historyLineCount=len(steps), eventsLineCount=0, logLineCount=0)
    texts = dict(historyTail=json.dumps(tail), eventsTail='[]', summaryMetrics='{}', config='{}', wandbConfig='{"t":1}')
    project = dict(id='p', name='p', entity=dict(id='e', name='me'))
    return (
      dict(id='x', name=id, displayName=id, projectName='p', tags=[], stopped=False, project=project) | counts | texts
    )


class _Handler(http.server.BaseHTTPRequestHandler):
  protocol_version = 'HTTP/1.1'

  def log_message(self, *args) -> None:
    pass

  def _answer(self) -> None:
    body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    if self.headers.get('Content-Encoding') == 'gzip':
      body = gzip.decompress(body)
    fake, result = self.server.fake, {}
    if self.path.startswith('/graphql'):
      result = dict(data=fake.graphql(json.loads(body), f'http://{self.headers["Host"]}'))
    elif match := re.fullmatch(r'/files/[^/]+/[^/]+/([^/]+)/file_stream', self.path):
      fake.stream(match[1], json.loads(body).get('files') or {})
    content = json.dumps(result).encode()
    self.send_response(200)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  do_GET = do_POST = do_PUT = _answer


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, request, client_address) -> None:
    """A client that was killed leaves in the middle of a request."""


@contextlib.contextmanager
def serving() -> Iterator[tuple[FakeWandb, str]]:
  """A server without runs, and its address."""
  server = _Server(('127.0.0.1', 0), _Handler)
  server.fake = FakeWandb()
  threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
  try:
    yield server.fake, f'http://127.0.0.1:{server.server_port}'
  finally:
    server.shutdown()
    server.server_close()
