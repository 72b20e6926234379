#!/usr/bin/env bash
# What CI runs: makes .venv, installs the test extra, then lint, formatting, types and tests. `--all` adds the tests that
# are marked slow; other arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh
make_venv test
# The TPU's compiler lies beside the packages, not among them: there, JAX would look for TPUs in every run of this .venv.
export LIBTPU="$VIRTUAL_ENV/libtpu"
if [[ ! -d $LIBTPU ]]; then
  wanted=$(python -c 'import importlib.metadata as m; print(*[r.split(";")[0] for r in m.requires("jax") if "libtpu" in r])')
  python -m pip install --quiet --disable-pip-version-check --no-deps --target "$LIBTPU" "$wanted" ||
    echo "no $wanted for this machine: the tests of TPU programs are skipped"
fi
chosen=(-m 'not slow')
if [[ ${1:-} == --all ]]; then
  chosen=()
  shift
fi
ruff check .
ruff format --check .
pyright
NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir "$(mktemp -d)/site"
exec python -m pytest -n 2 --dist loadfile "${chosen[@]}" "$@"
