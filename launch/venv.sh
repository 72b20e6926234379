# Sourced by the other scripts: `make_venv EXTRA` makes .venv in the project's folder, installs the project and, if
# named, extras of pyproject.toml (tpu,gcs), all in the tested versions of constraints.txt, and activates it.
# Set PYTHON to choose the interpreter (3.11 to 3.13), VENV to choose the folder.
# shellcheck shell=bash

make_venv() {
  local python="${PYTHON:-python3}" venv="${VENV:-.venv}" extra="${1:-}"
  if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'; then
    echo "error: $("$python" --version 2>&1) cannot run this; set PYTHON to a Python 3.11, 3.12 or 3.13" >&2
    exit 78
  fi
  # An unchanged setup is not installed again; the stamp is written last, so a broken installation is repeated.
  local stamp="$venv/.installed${extra:+-$extra}"
  if [[ ! -f "$stamp" || pyproject.toml -nt "$stamp" || constraints.txt -nt "$stamp" ]]; then
    "$python" -m venv "$venv"
    echo "installing into $venv (a few minutes the first time)"
    if [[ "$extra" == test ]]; then
      # Alone and first: with other packages beside it, pip may choose a build with gigabytes of GPU libraries.
      "$venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt torch
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
    touch "$stamp"
  fi
  # shellcheck disable=SC1091
  source "$venv/bin/activate"
}
