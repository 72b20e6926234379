#!/usr/bin/env bash
# TPU VMs (one host or a pod slice) on Google Cloud: makes them, installs on all workers, trains, comes back after
# preemption. docs/pods.md goes through it.
#
#   bash launch/tpu.sh create  --name=N --zone=Z --type=v5litepod-16 --runtime=v2-alpha-tpuv5-lite [--spot]
#   bash launch/tpu.sh install --name=N --zone=Z
#   bash launch/tpu.sh run     --name=N --zone=Z [--restarts=20] -- \
#              --config=configs/F.py --workdir=gs://BUCKET/runs/RUN ...
#   bash launch/tpu.sh log     --name=N --zone=Z
#   bash launch/tpu.sh keep    (all flags of create and run) -- ...    create, install, run; again after each preemption
#   bash launch/tpu.sh delete  --name=N --zone=Z
#
# --project=P and --dry-run go with all of them. It takes gcloud, logged in, on the machine where it is run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/steps.sh

verb="${1:-}"
(($#)) && shift
name='' zone='' type='' runtime='' project='' spot=false restarts=20
read_flags name zone type runtime spot project restarts -- "$@"
needed name zone
where=(--zone="$zone")
[[ -n "$project" ]] && where+=(--project="$project")
folder=score_jax

on_all() { step gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"; }

create() {
  needed type runtime
  local options=()
  [[ "$spot" == true ]] && options=(--spot)
  # A queued resource waits for room; a plain `tpu-vm create` fails when there is none.
  step gcloud compute tpus queued-resources create "$name" --node-id="$name" "${where[@]}" \
    --accelerator-type="$type" --runtime-version="$runtime" "${options[@]}"
  until [[ "$(state)" == ACTIVE ]]; do
    case "$(state)" in
      FAILED | SUSPENDED) echo "the request ended as $(state)" >&2; return 75 ;;
    esac
    sleep 30
  done
}

# Of the queued resource: WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE, SUSPENDING, SUSPENDED, FAILED; '' where there is none.
state() {
  if $dry_run; then
    echo ACTIVE
    return
  fi
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' 2>/dev/null || true
}

install() {
  local archive
  archive="$(mktemp -u).tar.gz"
  step git archive --format=tar.gz --output="$archive" HEAD # what is committed, nothing else
  step gcloud compute tpus tpu-vm scp "$archive" "$name:$folder.tar.gz" "${where[@]}" --worker=all
  step rm -f "$archive"
  # TPU VM images come with Python 3.10, which is too old: uv brings another one where there is none.
  on_all "set -e; mkdir -p $folder; tar -xzf $folder.tar.gz -C $folder; cd $folder
python=\$(command -v python3.12 || command -v python3.11 || true)
if [ -z \"\$python\" ]; then
  python3 -m pip install --quiet --user uv; \$HOME/.local/bin/uv python install --quiet 3.12
  python=\$(\$HOME/.local/bin/uv python find 3.12)
fi
PYTHON=\$python bash -c 'source launch/venv.sh; make_venv tpu,gcs'"
}

run() {
  ((${#rest[@]})) || fail 'the arguments of the run stand after --'
  local line="RESTARTS=$restarts bash launch/retry.sh .venv/bin/python -m score_jax.main --distributed=tpu"
  line+="$(printf ' %q' "${rest[@]}")"
  # Its own session on each worker, so that it outlives this connection. run.code holds its exit code at the end.
  on_all "cd $folder; rm -f run.code; setsid nohup bash -c $(printf '%q' "$line > run.log 2>&1; echo \$? > run.code") < /dev/null > /dev/null 2>&1 &"
}

# The exit code of worker 0 (69: launch/retry.sh gave up); '' while it runs, or where it can't be reached.
code() {
  if $dry_run; then
    echo 0
    return
  fi
  gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 --command="cat $folder/run.code" 2>/dev/null || true
}

delete() { step gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet; }

# Spot machines that were taken cannot be started again: the request is deleted and made anew. The run goes on from its
# last checkpoint by itself, because the command is the same.
keep() {
  local ended
  while true; do
    if $dry_run || [[ "$(state)" != ACTIVE ]]; then
      $dry_run || [[ -z "$(state)" ]] || delete
      create || continue
    fi
    install
    run
    while [[ "$(state)" == ACTIVE ]]; do
      ended="$(code)"
      case "$ended" in
        '') sleep 60 ;;
        75) run ;; # stopped from outside: the same command again
        *) exit "$ended" ;;
      esac
    done
    echo "preempted ($(state)); making it anew" >&2
    delete
  done
}

case "$verb" in
  create | install | run | delete | keep) "$verb" ;;
  log) step gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=0 --command="tail -n 50 -f $folder/run.log" ;;
  *) fail "launch/tpu.sh takes create, install, run, log, keep or delete, not '$verb'" ;;
esac
