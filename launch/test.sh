#!/usr/bin/env bash
# What CI runs: makes .venv, installs the test extra, then lint, formatting, and the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh
make_venv test
ruff check .
ruff format --check .
exec python -m pytest -n 2 --dist loadfile "$@"
