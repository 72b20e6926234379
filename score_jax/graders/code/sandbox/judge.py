# SPDX-License-Identifier: Apache-2.0
"""The judge's side: runs the tests, in which the program's names are calls of another process.

Tests are trusted; what the program returns is data. The judge runs behind the same layers and limits, because a test
may do with that data whatever it likes: hash it, multiply it, loop over it.
"""

import builtins
import random
import sys

from score_jax.graders import messages
from score_jax.graders.code.sandbox import codec
from score_jax.graders.code.sandbox.codec import Ref

CORRECT, WRONG, GONE, UNFIT = 'correct', 'wrong', 'gone', 'unfit'  # UNFIT: the tests cannot be run this way

_MESSAGE = 200
_MOST_ITEMS = 1024  # asked for at once, of an iterator
# What the program raises is raised again in the test if it is one of these. Not StopIteration: inside a test's map() or
# zip() it would end the loop, and with it the test, without a word.
_RAISED = {
  error.__name__: error
  for error in (
    ArithmeticError, AssertionError, AttributeError, EOFError, IndexError, KeyError, LookupError, MemoryError,
    NameError, NotImplementedError, OSError, OverflowError, RecursionError, RuntimeError, SyntaxError, TypeError,
    UnicodeError, ValueError, ZeroDivisionError,
  )
}  # fmt: skip


class ProgramError(Exception):
  """The program raised something else."""


class Gone(BaseException):
  """The program's process ended, or broke the protocol. A test that catches it gains nothing: see `Session`."""


class Unfit(BaseException):
  """The tests cannot be run this way: they pass what is not plain data, or need a module that is not there."""


class Remote:
  """A name or an object of the program's process. It can be called, iterated over and passed back.

  Every other use is an error. Were it merely unequal to everything, `!=` and `not in` would hold for whatever a program
  makes up. What it iterates over is data, as if the program had returned a list.
  """

  __slots__ = ('_makes_instances', '_ref', '_session')
  __hash__ = None

  def __init__(self, session: 'Session', ref: Ref, makes_instances: bool = False):
    object.__setattr__(self, '_session', session)
    object.__setattr__(self, '_ref', ref)
    object.__setattr__(self, '_makes_instances', makes_instances)

  def __call__(self, *arguments, **named):
    return self._session.call(self._ref, arguments, named, Instance if self._makes_instances else Remote)

  def __iter__(self):
    call, most = self._session.call, 1
    iterator = call(Ref(codec.ITERATE), (self,), {})
    while True:
      items = call(Ref(codec.TAKE), (iterator, most), {})
      if type(items) is not list:
        raise TypeError('the program returned no items')
      yield from items
      if len(items) < most:
        return
      most = min(2 * most, _MOST_ITEMS)

  def __next__(self):
    for item in self._session.call(Ref(codec.TAKE), (self, 1), {}):
      return item
    raise StopIteration

  def _refuse(self, *_):
    raise TypeError('the program returned an object that is not plain data')

  __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _refuse

  def __repr__(self):
    return '<an object of the program>'


class Instance(Remote):
  """An object that a test made by a class of the program, or got from one: its attributes are the program's."""

  __slots__ = ()

  def __init__(self, session: 'Session', ref: Ref):
    super().__init__(session, ref, makes_instances=True)

  def __getattr__(self, name: str):
    return self._session.call(Ref(codec.GET), (self, name), {}, Instance)

  def __setattr__(self, name: str, value: object):
    self._session.call(Ref(codec.SET), (self, name, value), {})


# A value of a class that the program derived from a plain type (a namedtuple, an IntEnum): the plain value in all
# respects, but for passing it back, which passes the program's object.
_DERIVED = {kind: type(kind.__name__, (kind,), {'_ref': None}) for kind in codec.DERIVED}


class Session:
  """Calls to the program within limits on bytes and calls; it ends at the first breach."""

  def __init__(self, fd: int, limits: dict):
    self.fd = fd
    self.calls = 0
    self.lost = ''  # why the program cannot pass any more
    self._most_calls = limits['calls']
    self._bytes_left = limits['output_bytes']

  def call(self, ref: Ref, arguments: tuple, named: dict, kind: type[Remote] = Remote) -> object:
    """Calls what `ref` names; objects in the result are of `kind`. Raises Gone, Unfit, or the program's exception."""
    self.calls += 1
    if self.calls > self._most_calls:
      raise self._lose(f'more than {self._most_calls} calls')
    try:
      request = codec.dumps((ref, arguments, named), refer=_reference)
    except codec.CodecError as error:
      raise Unfit(f'a test passes what cannot be sent: {error}') from None
    try:
      messages.send(self.fd, request)
    except messages.Closed:
      raise self._lose('the process ended') from None
    return self.answer(kind)

  def answer(self, kind: type[Remote] = Remote) -> object:
    """Returns the result that the program sends, or raises its exception."""
    if self.lost:
      raise Gone(self.lost)
    try:
      payload = messages.receive(self.fd, self._bytes_left)
      self._bytes_left -= len(payload)
      answer = codec.loads(payload, lambda ref, copy=None: self._revived(ref, copy, kind))
    except messages.Closed:
      raise self._lose('the process ended') from None
    except (messages.TooLong, codec.CodecError) as error:
      raise self._lose(f'the result: {error}') from None
    match answer:
      case ('value', value):
        return value
      case ('raised', str(name), str(text)):
        raise _exception(name, text)
      case ('refused', str(reason)):
        raise self._lose(f'the result: {reason}')
    raise self._lose('not an answer')

  def _revived(self, ref: Ref, copy: object, kind: type[Remote]) -> object:
    if copy is None:
      return kind(self, ref)
    derived = _DERIVED[type(copy)](copy)
    derived._ref = ref
    return derived

  def _lose(self, reason: str) -> Gone:
    self.lost = self.lost or reason
    return Gone(self.lost)


def _reference(value: object) -> Ref:
  if isinstance(value, (Remote, *_DERIVED.values())):
    return value._ref
  raise codec.CodecError(f'{type(value).__name__} is not plain data')


def _exception(name: str, text: str) -> Exception:
  if name in _RAISED:
    return _RAISED[name](text)
  return ProgramError(f'{name[:_MESSAGE]}: {text}')


def main(client: int, program: int) -> None:
  """Judges one job and writes (verdict, reason) to the client."""
  job = codec.loads(messages.receive(client))
  session = Session(program, job['limits'])
  try:
    messages.send(program, codec.dumps(job['program']))
    verdict, reason = _judge(session, job['tests'])
  except messages.Closed:
    verdict, reason = GONE, 'the process ended'
  messages.send(client, codec.dumps((verdict, reason[:_MESSAGE])))


def _judge(session: Session, tests: dict) -> tuple[str, str]:
  where = 'program'
  try:
    codes = [
      compile(source, f'test {i}', 'exec', dont_inherit=True) for i, source in enumerate(tests['tests'], start=1)
    ]
    namespace = _own_names(tests) | {
      name: Remote(session, Ref(name), name in tests['classes']) for name in tests['remote']
    }
    session.answer()
    for code in codes:
      where = code.co_filename
      exec(code, namespace)
    if tests['check']:
      namespace[tests['check']](Remote(session, Ref(tests['entry'])))
  except Gone as gone:
    return GONE, f'{where}: {gone}'
  except Unfit as error:
    return UNFIT, f'{where}: {error}'
  except BaseException as error:
    if not session.lost:
      return WRONG, f'{where}: {_line(tests, where)}{type(error).__name__} {_text(error)}'
  if session.lost:
    return GONE, f'{where}: {session.lost}'
  if not session.calls:
    return UNFIT, 'the tests never call the program'
  return CORRECT, ''


def _own_names(tests: dict) -> dict:
  """Returns what the tests define themselves. Raises Unfit where that does not run."""
  random.seed(tests['seed'])
  names = {'__builtins__': builtins, '__name__': 'tests'}
  try:
    names |= {name: sys.modules[name] for name in tests['modules']}
    exec(compile(tests['trusted'], 'setup', 'exec', dont_inherit=True), names)
  except Exception as error:
    raise Unfit(f'the setup of the tests: {type(error).__name__} {error}') from None
  return names


def _line(tests: dict, where: str) -> str:
  """Returns the line of the test from the traceback of the handled exception."""
  frame, number = sys.exc_info()[2], 0
  while frame is not None:
    if frame.tb_frame.f_code.co_filename == where:
      number = frame.tb_lineno
    frame = frame.tb_next
  if not number:
    return ''
  source = tests['tests'][int(where.removeprefix('test ')) - 1]
  return source.splitlines()[number - 1].strip()[:_MESSAGE] + ': '


def _text(error: BaseException) -> str:
  try:
    return str(error)
  except ValueError:  # an int of too many digits
    return ''
