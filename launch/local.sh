#!/usr/bin/env bash
# Several processes on this machine: a rehearsal of a pod on CPUs, or one process a GPU.
#
#   bash launch/local.sh --processes=2 [--devices=4] [--port=12355] -- --config=configs/quickstart.py --workdir=runs/two
#   bash launch/local.sh --processes=8 --gpus -- --config=...
#
# --devices: CPU devices of each process. --gpus: process I has GPU I alone. The first process that fails ends the
# others; the exit code is its own. With --dry-run the commands are printed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/steps.sh

processes='' devices=1 gpus=false port=12355 python="${PYTHON:-python3}"
[[ -z "${PYTHON:-}" && -x .venv/bin/python ]] && python=.venv/bin/python
read_flags processes devices gpus port -- "$@"
needed processes
((${#rest[@]})) || fail 'the arguments of the run stand after --'

running=()
trap '((${#running[@]})) && kill "${running[@]}" 2>/dev/null' EXIT
for ((i = 0; i < processes; i++)); do
  if [[ "$gpus" == true ]]; then
    settings=(CUDA_VISIBLE_DEVICES="$i")
  else
    settings=(JAX_PLATFORMS=cpu XLA_FLAGS="--xla_force_host_platform_device_count=$devices")
  fi
  command=(env "${settings[@]}" "$python" -m score_jax.main "--distributed=local:localhost:$port,$processes,$i" "${rest[@]}")
  if $dry_run; then
    step "${command[@]}"
  else
    "${command[@]}" &
    running+=($!)
  fi
done
for _ in "${running[@]}"; do
  wait -n || exit
done
