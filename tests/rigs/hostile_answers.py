"""Programs that attack the verdict: none of them computes the sum. More of `hostile_programs`, which says how they are
written."""

import textwrap

from hostile_programs import PROGRAMS, TIMEOUT, WRONG, answer, attack, program

__all__ = ['PROGRAMS']

# Ending early.
program('exits_at_import', 'import os\nos._exit(0)')
attack('exits_in_call', 'import os\nos._exit(0)')
attack('sys_exit', 'import sys\nsys.exit(0)')
program('system_exit_at_import', 'import sys\ndef add(a, b):\n  return a + b\nraise SystemExit(0)')
answer('atexit', 'None', 'import atexit, os\natexit.register(os._exit, 0)')
answer('prints_passed', "print('PASSED\\nOK\\n1 passed')", '')
attack('keyboard_interrupt', 'raise KeyboardInterrupt')
attack('generator_exit', 'raise GeneratorExit')
attack('stop_iteration', 'raise StopIteration')
attack('assertion', "raise AssertionError('passed')")
attack(
  'exception_of_lies', 'class E(BaseException):\n  def __str__(self):\n    raise self\n  __repr__ = __str__\nraise E'
)
attack(
  'exception_without_name',
  "meta = type('M', (type,), {'__name__': property(lambda c: 1 / 0)})\nraise meta('E', (BaseException,), {})()",
)
attack('closes_channel', 'import os\nos.close(3)\nwhile True:\n  pass')
attack('reads_input', 'input()')
attack('reads_channel', 'import os\nwhile True:\n  os.read(3, 1)', TIMEOUT)

# Objects that claim to be equal.
_ALWAYS = '__eq__ = lambda self, other: True\n  __ne__ = lambda self, other: False\n  __hash__ = lambda self: 0'
for base in ('object', 'int', 'float', 'str', 'tuple', 'list', 'dict', 'set', 'complex', 'bytes'):
  answer(f'equal_{base}', 'Equal()', f'class Equal({base}):\n  {_ALWAYS}\n')
answer('equal_inside', '[Equal(), {1: Equal()}]', f'class Equal(int):\n  {_ALWAYS}\n')
answer(
  'class_of_lies',
  'Liar()',
  f'class Liar:\n  __class__ = property(lambda self: int)\n  __int__ = __index__ = lambda self: 5\n  {_ALWAYS}\n',
)
answer('equal_fraction', 'Equal(1)', f'import fractions\nclass Equal(fractions.Fraction):\n  {_ALWAYS}\n')
answer('equal_enum', 'Equal.ONE', f'import enum\nclass Equal(enum.IntEnum):\n  ONE = 1\n  {_ALWAYS}\n')
answer('reads_as_five', 'Five(1)', 'class Five(int):\n  __pos__ = __int__ = __index__ = lambda self: 5\n')
answer('equal_metaclass', 'Equal', f'class Meta(type):\n  {_ALWAYS}\nclass Equal(metaclass=Meta):\n  pass\n')
answer('mock', 'unittest.mock.ANY', 'import unittest.mock\n')
answer(
  'pickles_evil',
  'Evil()',
  "import os\nclass Evil:\n  def __reduce__(self):\n    return os.system, ('touch $FOLDER/owned',)\n",
)
attack(
  'unpickles_evil',
  """
  import os, pickle
  class Evil:
    def __reduce__(self):
      return os.system, ('touch $FOLDER/owned',)
  if pickle.loads(pickle.dumps(Evil())):
    raise OSError
  """,
)
answer('nan', "float('nan')")
answer('surrogate', "'\\ud800'")
answer('function', 'add')
answer('generator', '(x for x in [5])')
answer('endless_generator', 'itertools.count()', 'import itertools\n')
answer('type_itself', 'int')
answer('no_answer', 'None')
answer('close_enough', 'a + b + 1e-9')
answer('text_of_it', 'str(a + b)')
answer('list_of_it', '[a + b]')

# Answers that are hard to read, and on a slow host take the time of it.
for name, expression, head in (
  ('deep', 'x', 'x = []\nfor _ in range(1000000):\n  x = [x]\n'),
  ('cyclic', 'x', 'x = []\nx.append(x)\n'),
  ('cyclic_dict', 'x', 'x = {}\nx[1] = x\n'),
  ('doubling', 'x', 'x = [0]\nfor _ in range(60):\n  x = [x, x]\n'),
  ('many', 'list(range(10 ** 6))', ''),
  ('long_text', "'x' * (10 ** 8)", ''),
  ('long_number', '10 ** 10 ** 6', ''),
  ('colliding_set', '{i * (2 ** 61 - 1) for i in range(3000)}', ''),
  ('colliding_tuples', 'set(itertools.product((-1, -2), repeat=11))', 'import itertools\n'),
):
  answer(name, expression, head, WRONG, TIMEOUT)

# The channel, which is descriptor 3.
attack('channel_flood', "import os\nwhile True:\n  os.write(3, b'x' * 65536)")
attack(
  'channel_long_frame', "import os\nos.write(3, b'\\xff\\xff\\xff\\xff')\nwhile True:\n  os.write(3, b'N' * 65536)"
)
attack('channel_half_frame', "import os, time\nos.write(3, b'\\0\\0\\0\\x10N')\ntime.sleep(99)", TIMEOUT)
attack('channel_empty_frame', "import os\nos.write(3, b'\\0\\0\\0\\0')")
attack('channel_count', "import os\nos.write(3, b'\\0\\0\\0\\x05[[[[[')")
_FRAME = "import os, struct\ndef say(body):\n  os.write(3, struct.pack('!I', len(body)) + body)\n"
_FIVE = """b'[{"tuple":["value",5]}]'"""
answer('channel_forged_answer', f'say({_FIVE})', _FRAME)
answer('channel_answers_ahead', f'[say({_FIVE}) for _ in range(9)]', _FRAME)
for name, body in (
  ('verdict', '{"tuple":["correct",""]}'),
  ('raises_exit', '{"tuple":["raised","SystemExit",""]}'),
  ('unknown_object', '{"tuple":["value",{"ref":127}]}'),
  ('unhashable', '{"tuple":["value",{"set":[[]]}]}'),
  ('bad_text', '{"tuple":["value","\\xff\\xfe"]}'),
  ('left_over', '{"tuple":["value",5]}],[null'),
  ('unknown_tag', '{"tuple":["value",{"object":5}]}'),
  ('two_tags', '{"tuple":["value",5],"set":[]}'),
  ('not_text', '{"tuple":["value",{"int":{"int":"5"}}]}'),
  ('derived_from_nothing', '{"tuple":["value",{"as":[{"ref":0},0]}]}'),
  ('derived_by_name', '{"tuple":["value",{"as":[5,"add"]}]}'),
  ('derived_in_derived', '{"tuple":["value",{"as":[{"as":[5,0]},0]}]}'),
  ('empty_step', '{"tuple":["value",{"range":[1,2,0]}]}'),
  ('no_fraction', '{"tuple":["value",{"fraction":[5,0]}]}'),
  ('no_decimal', '{"tuple":["value",{"decimal":["five"]}]}'),
  ('no_bytes', '{"tuple":["value",{"bytearray":[5000000000]}]}'),
  ('key_twice', '{"tuple":["value",{"keys":[5,5]}]}'),
):
  answer(f'channel_{name}', f"say(b'[{body}]')", _FRAME)
answer('channel_deep', "say(b'[' * 5000)", _FRAME)
answer('channel_deeper', "say(b'[' * 1000000)", _FRAME)
answer('channel_deep_tags', """say(b'[{"tuple":' * 100000)""", _FRAME)
answer('channel_long_int', """say(b'[{"tuple":["value",{"int":"' + b'f' * 1000000 + b'"}]}]')""", _FRAME)
answer('channel_long_digits', """say(b'[{"tuple":["value",' + b'9' * 1000000 + b']}]')""", _FRAME)
answer('forges_in_del', 'Late()', _FRAME + f'class Late:\n  def __del__(self):\n    say({_FIVE})\n')

# The harness in the program's own process, and what it may have left in memory.
answer(
  'patches_builtins',
  'None',
  """
  import builtins
  builtins.AssertionError = builtins.Exception = ()
  builtins.isinstance = lambda *a: True
  builtins.type = lambda x: int
  builtins.len = lambda x: 0
  """,
)
answer('empties_builtins', 'None', 'import builtins\nfor name in list(vars(builtins)):\n  delattr(builtins, name)\n')
answer('patches_json', 'None', 'import json\njson.dumps = json.loads = lambda *a, **k: 5\n')
_SANDBOX = 'import sys\nsandbox = sys.modules["score_jax.graders.code.sandbox.{}"]\n'
answer(
  'patches_codec',
  'None',
  _SANDBOX.format('codec') + 'sandbox.dumps = lambda *a: b"[5]"\nsandbox._encode = lambda *a: "[5]"\n',
)
answer('patches_encoder', 'None', _SANDBOX.format('program') + "sandbox._encode = lambda *a: b'[5]'\n")
answer(
  'patches_judge',
  'None',
  _SANDBOX.format('judge') + "sandbox._judge = lambda *a: ('correct', '')\nsandbox.main(3, 3)\n",
  TIMEOUT,
  WRONG,
)
answer(
  'patches_test_tools',
  'None',
  """
  import unittest
  unittest.TestCase.run = lambda *a: None
  unittest.TestCase.assertEqual = lambda *a: None
  import sys
  sys.modules["pytest"] = unittest
  """,
)
_NEEDLE = "half = ('ass', 'ert add')\n"  # in halves, so that the program does not find itself
answer(
  'walks_frames',
  'a + b if any(half[0] + half[1] in str(x) for x in values()) else None',
  _NEEDLE
  + textwrap.dedent("""
  import sys
  def values():
    frame = sys._getframe()
    while frame:
      yield from frame.f_locals.values()
      yield from frame.f_globals.values()
      frame = frame.f_back
  """),
)
answer(
  'scans_objects',
  'a + b if any(type(x) is str and x.startswith(half[0] + half[1]) for x in every()) else None',
  _NEEDLE + 'import gc\ndef every():\n  for x in gc.get_objects():\n    yield from gc.get_referents(x)\n',
)
attack(
  'scans_memory',
  """
  import ctypes
  needle = bytes([97, 115, 115, 101, 114, 116]) + b' add('
  start = id(needle) & ~0xfffff
  if needle not in ctypes.string_at(start, 1 << 20).replace(needle, b'', 1):
    raise ValueError
  """,
)
answer('inspects_harness', 'eval(inspect.getsource(sys._getframe(1)))', 'import inspect, sys\n')
answer(
  'traces',
  'None',
  """
  import sys, gc
  def spy(frame, event, argument):
    for name in frame.f_locals:
      if name == "answer":
        frame.f_locals[name] = ("value", 5)
    return spy
  sys.settrace(spy)
  sys.setprofile(spy)
  gc.callbacks.append(spy)
  """,
)
answer('name_is_data', '', 'add = 5\ndel add\nadd = 5\n#')
answer('changes_its_mind', 'calls.append(1) or (a + b if len(calls) == 1 else 0)', 'calls = []\n')
answer('knows_one_test', '5')
answer('changes_arguments', '(globals().__setitem__("a", b), b)', '')
answer('patches_int', 'None', 'import ctypes\nctypes.c_long.from_address(id(5) + 24).value = 6\n')
attack(
  'loads_marshal',
  """
  import marshal, types
  types.FunctionType(types.CodeType(0, 0, 0, 0, 0, 0, b'd\\xff' * 999, (), (), (), '', '', '', 0, b'', b''), {})()
  """,
)

# Sources that are hard to compile.
program('null_byte', 'def add(a, b):\n  return 5\n\0')
program('surrogate_source', "def add(a, b):\n  return '\ud800'\n")
program('carriage_return', 'def add(a, b):\r  return 0 #\r  return a + b')
program('cookie', '# -*- coding: utf-7 -*-\ndef add(a, b):\n  return +AGEAYg-\n')
program('ten_megabytes', 'def add(a, b):\n  return 0\n' + '#' * 10_000_000)
program('parentheses', 'x = ' + '(' * 40000 + ')' * 40000 + '\ndef add(a, b):\n  return 0')
program('minuses', 'x = ' + '-' * 90000 + '1\ndef add(a, b):\n  return 0')
program('long_literal', 'x = ' + '9' * 90000 + '\ndef add(a, b):\n  return 0')
program('folded_constant', 'x = ((1,) * 255 * 255 * 255 * 255, "a" * 4096 * 4096 * 4096)\ndef add(a, b):\n  return 0')
program('dots', 'x = a' + '.a' * 40000 + '\ndef add(a, b):\n  return 0')
program(
  'nested_blocks', ''.join(f'{" " * i}if 1:\n' for i in range(300)) + ' ' * 300 + 'pass\ndef add(a, b):\n  return 0'
)
