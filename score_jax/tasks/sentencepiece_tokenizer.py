# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a folder with a sentencepiece model alone, by that library.

transformers itself converts such a model, and then loses or moves the space before a text. This module imports
transformers, which takes seconds.
"""

import pathlib
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from score_jax.errors import DataError
from score_jax.tasks.tokenizer import ADDED, SENTENCEPIECE, SETTINGS, read_settings


def from_files(files: pathlib.Path, folder: pathlib.Path) -> Any:
  """Returns the tokenizer of `folder`, from copies in `files`; DataError if they do not fit."""
  path, settings = folder / SENTENCEPIECE, read_settings(folder / SETTINGS)
  model = ModelProto()
  try:
    if not model.ParseFromString(path.read_bytes()) or not model.pieces:
      raise ValueError('it has no pieces')
    _processor(model)
  except Exception as error:  # protobuf's errors have no common base
    raise DataError(f'{path}: is not a sentencepiece model; put the tokenizer.json beside it') from error
  tokenizer = SentencePieceTokenizer.from_pretrained(files, local_files_only=True)
  added = {token['content']: int(id_) for id_, token in settings.get('added_tokens_decoder', {}).items()}
  added |= read_settings(folder / ADDED)
  pieces = [piece.piece for piece in model.pieces]
  for token, id_ in added.items():
    if pieces[id_] != token if id_ < len(pieces) else id_ >= len(pieces) + len(added):
      raise DataError(
        f'{path}: cannot have {token!r} as its token {id_}, as {SETTINGS} or {ADDED} asks; '
        'put the tokenizer.json beside it'
      )
  for role in ('bos_token', 'eos_token'):
    token = getattr(tokenizer, role)
    if token and token not in added and token not in pieces:
      raise DataError(f'{folder / SETTINGS}: {role} = {token!r} is no token of {path.name}; name one')
  return tokenizer


def _processor(model: ModelProto) -> SentencePieceProcessor:
  return SentencePieceProcessor(model_proto=model.SerializeToString())


class SentencePieceTokenizer(SentencePieceBackend):
  """Gives texts between special tokens to sentencepiece, which finds user-defined symbols itself.

  With `legacy` the model puts a space before each of these texts, else before the first.
  """

  def __init__(self, vocab_file: str, legacy: bool = True, add_prefix_space: bool | None = None, **named: Any):
    model = ModelProto.FromString(pathlib.Path(vocab_file).read_bytes())
    model.normalizer_spec.add_dummy_prefix &= add_prefix_space is not False
    self._first = _processor(model)
    model.normalizer_spec.add_dummy_prefix &= legacy
    self._later = _processor(model)
    self._symbols = {piece.piece for piece in model.pieces if piece.type == piece.USER_DEFINED}
    self._at_start = True
    for role in ('bos', 'eos', 'unk', 'pad'):
      id_ = getattr(self._first, f'{role}_id')()
      if id_ >= 0 and not named.get(f'{role}_token'):
        named[f'{role}_token'] = self._first.id_to_piece(id_)
    super().__init__(vocab_file=vocab_file, legacy=legacy, **named)
    self.add_tokens([piece.piece for piece in model.pieces if piece.type == piece.CONTROL], special_tokens=True)
    self.add_tokens(sorted(self._symbols))

  def _update_trie(self, unique_no_split_tokens: list[str] | None = None) -> None:
    del unique_no_split_tokens
    self.tokens_trie.update(token for token in self.added_tokens_encoder if token not in self._symbols)

  def prepare_for_tokenization(self, text: str, **named: Any) -> tuple[str, dict[str, Any]]:
    """Notes whether the whole begins with text, and not with a special token."""
    self._at_start = not set(self.tokens_trie.split(text)[:1]) & self.added_tokens_encoder.keys()
    return text, named

  def _tokenize(self, text: str, **named: Any) -> list[str]:
    processor, self._at_start = self._first if self._at_start else self._later, False
    return processor.encode(text, out_type=str)

  def _decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **named: Any) -> str:
    texts, run, special = [], [], set(self.all_special_ids)
    for id_ in [token_ids] if isinstance(token_ids, int) else token_ids:
      if id_ not in special and id_ < self.vocab_size:
        run.append(id_)
      elif id_ not in special or not skip_special_tokens:
        texts += [self._text(run, texts), self.convert_ids_to_tokens(id_)]
        run = []
    return ''.join([*texts, self._text(run, texts)])

  def _text(self, ids: list[int], before: list[str]) -> str:
    return (self._later if before else self._first).decode(ids)
