#!/usr/bin/env bash
# A TPU slice on Google Kubernetes Engine, as a JobSet (jobset.sigs.k8s.io, installed in the cluster): fills in
# launch/jobset.yaml and hands it to kubectl. docs/pods.md goes through it, with the image (launch/Dockerfile).
#
#   bash launch/gke.sh --name=score --image=REGION-docker.pkg.dev/PROJECT/REPO/score_jax:TAG \
#     --accelerator=tpu-v5-lite-podslice --topology=4x4 --hosts=4 --chips=4 [--spot] [--restarts=20] \
#     -- --config=configs/F.py --workdir=gs://BUCKET/runs/RUN ...
#
# --hosts: machines of the slice; --chips: of each. --dry-run prints the YAML and the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/steps.sh

# shellcheck disable=SC2034  # read by name below
name='' image='' accelerator='' topology='' hosts='' chips='' spot=false restarts=20
read_flags name image accelerator topology hosts chips spot restarts -- "$@"
needed name image accelerator topology hosts chips
((${#rest[@]})) || fail 'the arguments of the run stand after --'

# One argument a line of YAML, each quoted as JSON, which YAML reads.
arguments=''
for word in "${rest[@]}"; do
  word="${word//\\/\\\\}"
  arguments+="              - \"${word//\"/\\\"}\""$'\n'
done

filled="$(<launch/jobset.yaml)"
for field in name image accelerator topology hosts chips restarts; do
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
