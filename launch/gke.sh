#!/usr/bin/env bash
# TPU slices on Google Kubernetes Engine, as a JobSet (jobset.sigs.k8s.io, installed in the cluster): fills in
# launch/jobset.yaml and hands it to kubectl. docs/pods.md goes through it, with the image (launch/Dockerfile).
#
#   bash launch/gke.sh --name=score --image=REGION-docker.pkg.dev/PROJECT/REPO/score_jax:TAG \
#     --accelerator=tpu-v5-lite-podslice --topology=4x4 --hosts=4 --chips=4 [--slices=1] [--spot] [--restarts=20] \
#     -- --config=configs/F.py --workdir=gs://BUCKET/runs/RUN ...
#
# --hosts: machines of a slice; --chips: of each; --slices: how many, each a node pool. Of several, config.mesh.data
# must be a multiple. --dry-run prints the YAML and the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/steps.sh

# shellcheck disable=SC2034  # read by name below
name='' image='' accelerator='' topology='' hosts='' chips='' slices=1 spot=false restarts=20
read_flags name image accelerator topology hosts chips slices spot restarts -- "$@"
needed name image accelerator topology hosts chips
[[ "$slices" =~ ^[1-9][0-9]*$ ]] || fail "--slices=$slices must be a count of TPU slices"
((${#rest[@]})) || fail 'the arguments of the run stand after --'

# One argument a line of YAML, each quoted as JSON, which YAML reads.
arguments=''
for word in "${rest[@]}"; do
  word="${word//\\/\\\\}"
  arguments+="              - \"${word//\"/\\\"}\""$'\n'
done

filled="$(<launch/jobset.yaml)"
for field in name image accelerator topology hosts chips slices restarts; do
  filled="${filled//@$field@/${!field}}"
done
filled="${filled//              @arguments@/${arguments%$'\n'}}"
if [[ "$spot" != true ]]; then
  filled="$(grep -v 'gke-spot' <<<"$filled")"
fi

if $dry_run; then
  echo "$filled"
  echo '+ kubectl apply -f -'
else
  kubectl apply -f - <<<"$filled"
  echo "kubectl logs -f -l jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0"
fi
