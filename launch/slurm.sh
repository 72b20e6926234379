#!/usr/bin/env bash
# GPUs under SLURM: one process a GPU, found by each other through SLURM's variables.
#
#   bash launch/slurm.sh --nodes=2 --gpus=8 --time=24:00:00 [--partition=P] [--account=A] [--restarts=20] \
#     -- --config=configs/F.py --workdir=/shared/runs/NAME ...
#
# --gpus: of each node. The folder and .venv in it lie where all nodes see them; so does the workdir, unless it is an
# address (gs://BUCKET/runs/NAME). --dry-run prints the job and the command. SLURM queues a preempted job anew; one that
# ends with 75 (try again) or by a signal asks for it, at most --restarts times.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/steps.sh

nodes='' gpus='' partition='' account='' time=24:00:00 restarts=20 name=score_jax
read_flags name nodes gpus time partition account restarts -- "$@"
needed nodes gpus
((${#rest[@]})) || fail 'the arguments of the run stand after --'

options=(--job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" --gpus-per-node="$gpus" --time="$time")
options+=(--requeue --open-mode=append --output="$name-%j.log")
[[ -n "$partition" ]] && options+=(--partition="$partition")
[[ -n "$account" ]] && options+=(--account="$account")

job="#!/usr/bin/env bash
# SIGTERM two minutes before the end of the time: the run saves and ends with 75.
#SBATCH --signal=TERM@120
cd $(printf '%q' "$PWD")
srun --kill-on-bad-exit=1 .venv/bin/python -m score_jax.main --distributed=slurm$(printf ' %q' "${rest[@]}")
code=\$?
if ((code == 75 || code > 128)) && ((\${SLURM_RESTART_COUNT:-0} < $restarts)); then
  scontrol requeue \$SLURM_JOB_ID
fi
exit \$code"

if $dry_run; then
  echo "$job"
  step sbatch "${options[@]}"
else
  sbatch "${options[@]}" <<<"$job"
fi
