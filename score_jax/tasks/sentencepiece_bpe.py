"""A folder's sentencepiece model as a fast tokenizer, whose ids are proved to be sentencepiece's own.

transformers' conversion drops the space that these models put before a text, or puts it where they don't.
"""

import pathlib
import shutil
import tempfile
from typing import Any

from score_jax.errors import DataError
from score_jax.tasks.tokenizer_files import ADDED
from score_jax.tasks.tokenizer_files import SENTENCEPIECE
from score_jax.tasks.tokenizer_files import SETTINGS
from score_jax.tasks.tokenizer_files import SPECIALS
from score_jax.tasks.tokenizer_files import read_settings

_BESIDE = (SETTINGS, SPECIALS, ADDED, 'chat_template.jinja')
# Texts on which a converted tokenizer must agree with sentencepiece.
_PROBES = (
  'There might be an error. Try again!',
  '  two spaces\n\tand  more   inside ',
  'x = [1, 22, 333] # 4444+5555=9999',
  '\n\nCafé, naïve — ﬁ Å ½ 日本語 🤗\u200b\x07',
  'aaaaaaaaa ------- ======= \n \n  \n   \n',
)


def from_sentencepiece(folder: pathlib.Path) -> Any:
  """The tokenizer of a folder with a sentencepiece model and no tokenizer.json.

  Raises:
    DataError: it is no such model, is of a kind that can't be converted, or ids come out differently.
  """
  import sentencepiece
  from sentencepiece import sentencepiece_model_pb2
  import transformers

  path, settings = folder / SENTENCEPIECE, read_settings(folder / SETTINGS)
  model = sentencepiece_model_pb2.ModelProto()
  try:
    if not model.ParseFromString(path.read_bytes()) or not model.pieces:
      raise ValueError('it has no pieces')
    if settings.get('add_prefix_space') is False:
      model.normalizer_spec.add_dummy_prefix = False
    reader = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
  except Exception as error:  # protobuf's errors have no common base
    raise DataError(f'{path}: is not a sentencepiece model; put the tokenizer.json of the model beside it') from error
  reason = _unlike_bpe(model)
  if reason:
    raise DataError(f'{path}: {reason}, which is not supported; put the tokenizer.json of the model beside it')
  # Of the two files that name special tokens, transformers reads the first that lists added ones.
  given = settings if 'added_tokens_decoder' in settings else settings | read_settings(folder / SPECIALS)
  named = {
    f'{role}_token': reader.id_to_piece(id_)
    for role in ('bos', 'eos', 'unk', 'pad')
    if (id_ := getattr(reader, f'{role}_id')()) >= 0 and not given.get(f'{role}_token')
  }
  with tempfile.TemporaryDirectory() as place:  # transformers reads the other files as it does beside a tokenizer.json
    _core(model).save(f'{place}/tokenizer.json')
    for name in _BESIDE:
      if (folder / name).is_file():
        shutil.copyfile(folder / name, f'{place}/{name}')
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(place, local_files_only=True, **named)
  tokenizer.name_or_path = str(folder)
  # legacy=False: a text with its special tokens is one, with one space before it. Else what stands between them is
  # what sentencepiece is given, and each such text has its own.
  _space_texts(tokenizer.backend_tokenizer, model, once=settings.get('legacy') is False)
  _check_ids(path, tokenizer, reader, settings)
  return tokenizer


def _unlike_bpe(model: Any) -> str:
  """What of a sentencepiece model a BPE of the tokenizers library can't do; '' if nothing."""
  trainer, normalizer = model.trainer_spec, model.normalizer_spec
  if trainer.model_type != trainer.BPE:
    return f'it is a {trainer.ModelType.Name(trainer.model_type)} model, not BPE'
  if normalizer.precompiled_charsmap:
    return f'its normalizer {normalizer.name!r} rewrites text'
  if normalizer.remove_extra_whitespaces:
    return 'it drops spaces'
  if trainer.treat_whitespace_as_suffix or not normalizer.escape_whitespaces:
    return 'it has spaces behind words, or none'
  if any(piece.type == piece.UNUSED for piece in model.pieces):
    return 'it has unused pieces'
  return ''


def _core(model: Any) -> Any:
  """A sentencepiece BPE as one of the tokenizers library, before the rule for spaces."""
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models

  scores = {piece.piece: piece.score for piece in model.pieces if piece.type == piece.NORMAL}
  # sentencepiece joins the two neighbours whose union has the best score, however the union was once made.
  unions = sorted(
    (-score, cut, piece)
    for piece, score in scores.items()
    for cut in range(1, len(piece))
    if piece[:cut] in scores and piece[cut:] in scores
  )
  core = tokenizers.Tokenizer(
    models.BPE(
      {piece.piece: id_ for id_, piece in enumerate(model.pieces)},
      [(piece[:cut], piece[cut:]) for _, cut, piece in unions],
      unk_token=next(piece.piece for piece in model.pieces if piece.type == piece.UNKNOWN),
      fuse_unk=True,
      byte_fallback=model.trainer_spec.byte_fallback,
    )
  )
  strip = [decoders.Strip(' ', 1, 0)] if model.normalizer_spec.add_dummy_prefix else []
  core.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse(), *strip])
  core.add_special_tokens([piece.piece for piece in model.pieces if piece.type == piece.CONTROL])
  core.add_tokens([piece.piece for piece in model.pieces if piece.type == piece.USER_DEFINED])
  return core


def _space_texts(core: Any, model: Any, once: bool) -> None:
  """Writes spaces as sentencepiece does, and one before each text between special tokens, or `once` before the whole.

  The library splits a text at tokens that are not normalized, and normalizes what is between them. Tokens that are
  normalized it finds afterwards, in texts that have their space. (A text that is one user-defined symbol and nothing
  else can't be told from the symbol, and has none.)
  """
  import tokenizers
  from tokenizers import normalizers

  symbols = {piece.piece for piece in model.pieces if piece.type == piece.USER_DEFINED}  # text, to sentencepiece
  added = core.get_added_tokens_decoder().values()
  rules = [normalizers.Replace(' ', '▁')]
  if model.normalizer_spec.add_dummy_prefix:
    # What is sought is normalized too, and must stay as it is; nor has a text that begins with a special token a space.
    alone = [rf'{_escaped(token.content)}\z' for token in added]
    first = [_escaped(token.content) for token in added if once and token.content not in symbols]
    never = '|'.join([*alone, *first])
    rules.insert(0, normalizers.Replace(tokenizers.Regex(rf'\A(?!{never})(?=[\s\S])'), '▁'))
  core.normalizer = normalizers.Sequence(rules)
  core.add_tokens(
    [
      tokenizers.AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=once or token.content in symbols,
        special=token.special,
      )
      for token in added
    ]
  )


def _escaped(text: str) -> str:
  """A text as a regular expression of its characters' numbers: the library's syntax is not Python's."""
  return ''.join(f'\\x{{{ord(char):x}}}' for char in text)


def _check_ids(path: pathlib.Path, tokenizer: Any, reader: Any, settings: dict[str, Any]) -> None:
  """Compares ids with sentencepiece's, and those of named tokens with what the files beside it say."""
  for text in _PROBES:
    found, expected = tokenizer(text, add_special_tokens=False)['input_ids'], reader.encode(text)
    # A token that the folder adds to the model's may be in any text.
    if found != expected and max(found, default=0) < reader.get_piece_size():
      raise DataError(
        f'{path}: converted, {text!r} has the ids {str(found)[:60]}, but sentencepiece has {str(expected)[:60]}; put '
        'the tokenizer.json of the model beside it'
      )
  added = {token['content']: int(id_) for id_, token in settings.get('added_tokens_decoder', {}).items()}
  added |= read_settings(path.with_name(ADDED))
  for token, id_ in added.items():
    if tokenizer.convert_tokens_to_ids(token) != id_:
      raise DataError(
        f'{path}: can not have {token!r} as its token {id_}, which {SETTINGS} or {ADDED} asks for; put the '
        'tokenizer.json of the model beside it'
      )
  for role in ('bos_token', 'eos_token'):
    token = getattr(tokenizer, role)
    if token and token not in added and reader.id_to_piece(reader.piece_to_id(token)) != token:
      raise DataError(f'{path.with_name(SETTINGS)}: {role} = {token!r} is no token of {path.name}; name one')
