#!/usr/bin/env bash
# A small base model learns to correct itself: makes .venv, installs, trains. Arguments go to the run, e.g.
#   bash launch/quickstart.sh --workdir=runs/mine --config.seed=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh
make_venv
echo "afterwards 'source $VIRTUAL_ENV/bin/activate' brings the command score-jax"
exec python -m score_jax.main --config=configs/quickstart.py "$@"
