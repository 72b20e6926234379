# SPDX-License-Identifier: Apache-2.0
"""Exports a run's policy: `python -m score_jax.export --run=runs/X --step=best|last|N --out=DIR`.

Adapters are merged into the base; `--format=peft` writes them alone, for PEFT. `--push=USER/NAME` uploads the folder to
the hub, with its model card and the run's report.
"""

import contextlib
import pathlib
import tempfile
from typing import Any

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError

_RUN = flags.DEFINE_string('run', '', 'a run folder')
_STEP = flags.DEFINE_string('step', 'best', "which checkpoint: 'best', 'last' or a step number")
_OUT = flags.DEFINE_string('out', '', 'the HF folder to write; must not exist')
_FORMAT = flags.DEFINE_enum('format', 'hf', ['hf', 'peft'], 'a whole model, or the adapters of a LoRA run alone')
_DTYPE = flags.DEFINE_enum('dtype', '', ['', 'float32', 'bfloat16', 'float16'], "of the weights; default: the base's")
_PUSH = flags.DEFINE_string('push', '', 'a model repository OWNER/NAME of the hub, made if it is not there')
_PRIVATE = flags.DEFINE_bool('private', False, 'whether --push makes the repository private')


def main() -> None:
  if not _RUN.value or not (_OUT.value or _PUSH.value):
    raise ConfigError('give --run=RUN_FOLDER and --out=DIR, or --push=OWNER/NAME, or both')
  if _PRIVATE.value and not _PUSH.value:
    raise ConfigError('--private is for --push=OWNER/NAME; give that too, or leave it out')

  from score_jax import hub
  from score_jax.models import lora as loras
  from score_jax.storage import pins, push
  from score_jax.storage.run_folder import RunFolder

  folder = RunFolder(_RUN.value)
  config = folder.read_config()['config']
  lora = loras.Lora(**config['lora'])
  if _FORMAT.value == 'peft' and (not lora.rank or _DTYPE.value):
    raise ConfigError(
      f'--format=peft writes f32 adapters: config.lora.rank = {lora.rank}, --dtype={_DTYPE.value!r}; '
      'leave out --dtype, or use --format=hf'
    )
  if _FORMAT.value == 'peft' and _PUSH.value and not hub.model(config['model']['path']):
    raise ConfigError(
      f'--push={_PUSH.value}: adapters name their base, which here is a folder of this machine, '
      f'{config["model"]["path"]!r}; push the whole model, --format=hf'
    )
  source = pins.model_folder(folder)
  target = push.opened(_PUSH.value, _PRIVATE.value) if _PUSH.value else None
  with contextlib.ExitStack() as temporary:
    if _OUT.value:
      out = pathlib.Path(_OUT.value)
    else:
      out = pathlib.Path(temporary.enter_context(tempfile.TemporaryDirectory(prefix='score_jax-'))) / 'export'
    step = _write(folder, source, lora, out)
    if _OUT.value:
      print(f'wrote {out}')
    if target:
      print(f'pushed to {push.push(target, out, f"Step {step} of a score_jax run")}')


def _write(folder: Any, source: pathlib.Path, lora: Any, out: pathlib.Path) -> int:
  """Writes the policy's folder, and for a push the report; returns its step."""
  from score_jax import hub
  from score_jax.models import lora as loras
  from score_jax.parallel import mesh as meshes
  from score_jax.reporting import metrics, model_card, report_page, rows
  from score_jax.storage import hf, hf_export
  from score_jax.training import run

  written = folder.read_config()
  config, template = written['config'], written.get('chat_template', '')
  if lora.rank:
    run.check_base(folder, source)
  decoder = hf.read_config(source)
  step = run.step_of(folder, _STEP.value)
  params = run.best_params(folder, meshes.make_mesh(-1, 1, 1), loras.trained_table(decoder, lora), str(step))
  local, evaluations = folder.fetch(), folder.read_eval()
  name, policy = model_card.figures_at(step, evaluations, metrics.read(folder.metrics))
  conversations = folder.rows / f'{name}.jsonl.gz'
  card = model_card.text(
    model_card.Subject(
      title=_PUSH.value or folder.store.root.name,
      written=written,
      step=step,
      base=evaluations.get('base', {}),
      policy=policy,
      example=model_card.example_of(rows.read(conversations)) if conversations.exists() else None,
      adapters=_FORMAT.value == 'peft',
      report=bool(_PUSH.value),
    )
  )
  if _FORMAT.value == 'peft':
    base = hub.model(config['model']['path']) or source
    hf_export.write_adapter(out, params, decoder, lora, base=base, chat_template=template, card=card)
  else:
    hf_export.write_folder(
      out,
      loras.scaled(params, lora),
      decoder,
      source=source,
      chat_template=template,
      dtype=hf.DTYPES[_DTYPE.value] if _DTYPE.value else hf.open_weights(source, decoder).dtypes(),
      card=card,
    )
  if _PUSH.value:
    report_page.write([local], out / 'report.html', public=True)
  return step


if __name__ == '__main__':
  cli.run(main)
