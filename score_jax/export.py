# SPDX-License-Identifier: Apache-2.0
"""Exports a run's policy: `python -m score_jax.export --run=runs/X --step=best|last|N --out=DIR`.

Adapters are merged into the base; `--format=peft` writes them alone, for PEFT.
"""

import pathlib

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError

_RUN = flags.DEFINE_string('run', '', 'a run folder')
_STEP = flags.DEFINE_string('step', 'best', "which checkpoint: 'best', 'last' or a step number")
_OUT = flags.DEFINE_string('out', '', 'the HF folder to write; must not exist')
_FORMAT = flags.DEFINE_enum('format', 'hf', ['hf', 'peft'], 'a whole model, or the adapters of a LoRA run alone')
_DTYPE = flags.DEFINE_enum('dtype', '', ['', 'float32', 'bfloat16', 'float16'], "of the weights; default: the base's")


def main() -> None:
  if not _RUN.value or not _OUT.value:
    raise ConfigError('give --run=RUN_FOLDER and --out=DIR')

  from score_jax import hub
  from score_jax.models import lora as loras
  from score_jax.parallel import mesh as meshes
  from score_jax.storage import hf, hf_export, pins
  from score_jax.storage.run_folder import RunFolder
  from score_jax.training import run

  folder, out = RunFolder(_RUN.value), pathlib.Path(_OUT.value)
  written = folder.read_config()
  config, template = written['config'], written.get('chat_template', '')
  lora = loras.Lora(**config['lora'])
  if _FORMAT.value == 'peft' and (not lora.rank or _DTYPE.value):
    raise ConfigError(
      f'--format=peft writes f32 adapters: config.lora.rank = {lora.rank}, --dtype={_DTYPE.value!r}; '
      'leave out --dtype, or use --format=hf'
    )
  source = pins.model_folder(folder)
  if lora.rank:
    run.check_base(folder, source)
  decoder = hf.read_config(source)
  params = run.best_params(folder, meshes.make_mesh(-1, 1, 1), loras.trained_table(decoder, lora), _STEP.value)
  if _FORMAT.value == 'peft':
    base = hub.model(config['model']['path']) or source
    hf_export.write_adapter(out, params, decoder, lora, base=base, chat_template=template)
  else:
    hf_export.write_folder(
      out,
      loras.scaled(params, lora),
      decoder,
      source=source,
      chat_template=template,
      dtype=hf.DTYPES[_DTYPE.value] if _DTYPE.value else hf.open_weights(source, decoder).dtypes(),
    )
  print(f'wrote {out}')


if __name__ == '__main__':
  cli.run(main)
