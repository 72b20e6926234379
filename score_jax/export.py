"""Exports a run's policy: `python -m score_jax.export --run=runs/X --step=best|last|N --out=DIR`."""

import pathlib

from absl import flags

from score_jax import doors
from score_jax.errors import ConfigError

_RUN = flags.DEFINE_string('run', '', 'a run folder')
_STEP = flags.DEFINE_string('step', 'best', "which checkpoint: 'best', 'last' or a step number")
_OUT = flags.DEFINE_string('out', '', 'the HF folder to write; must not exist')
_DTYPE = flags.DEFINE_enum('dtype', '', ['', 'float32', 'bfloat16', 'float16'], "of the weights; default: the base's")


def main() -> None:
  if not _RUN.value or not _OUT.value:
    raise ConfigError('give --run=RUN_FOLDER and --out=DIR')

  from score_jax.parallel import mesh as meshes
  from score_jax.storage import hf
  from score_jax.storage.run_folder import RunFolder
  from score_jax.tasks import chat as chats
  from score_jax.training import run

  folder = RunFolder(_RUN.value)
  config = folder.read_config()['config']
  source = hf.folder_of(config['model']['path'])
  decoder = hf.read_config(source)
  params = run.best_params(folder, meshes.make_mesh(-1, 1, 1), decoder, _STEP.value)
  dtype = hf.config_dtype(_DTYPE.value) if _DTYPE.value else hf.stored_dtype(source)
  template = config['task']['chat_template']
  hf.write_folder(
    pathlib.Path(_OUT.value),
    params,
    decoder,
    source=source,
    chat_template=chats.load_tokenizer(source, template).chat_template if template else '',
    dtype=dtype,
  )
  print(f'wrote {_OUT.value}')


if __name__ == '__main__':
  doors.run(main)
