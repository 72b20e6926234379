# Sourced by the scripts that start runs elsewhere. `read_flags NAME... -- "$@"` sets a variable for each
# --NAME=VALUE, `dry_run`, and the array `rest` with what stands after `--`. `step COMMAND...` runs a command; with
# --dry-run it prints it instead, and nothing is run.
# shellcheck shell=bash
# shellcheck disable=SC2034  # the variables are read by who sources this

rest=()
dry_run=false

fail() {
  echo "error: $*" >&2
  exit 78
}

# Its own names begin with _, as no flag's does: what a function calls local hides the variable that it is to set.
read_flags() {
  local _known=() _flag
  while [[ "$1" != -- ]]; do _known+=("$1"); shift; done
  shift
  while (($#)); do
    case "$1" in
      --dry-run) dry_run=true ;;
      --) shift; rest=("$@"); return ;;
      --*)
        _flag="${1#--}"
        _flag="${_flag%%=*}"
        [[ " ${_known[*]} " == *" $_flag "* ]] ||
          fail "$1 is no flag of this script; it has ${_known[*]/#/--} --dry-run, and the arguments of the run after --"
        # --spot alone is --spot=true.
        if [[ "$1" == *=* ]]; then printf -v "$_flag" '%s' "${1#*=}"; else printf -v "$_flag" true; fi
        ;;
      *) fail "$1: flags are written --name=value, and the arguments of the run stand after --" ;;
    esac
    shift
  done
}

needed() {
  local _flag
  for _flag in "$@"; do
    [[ -n "${!_flag:-}" ]] || fail "--$_flag=VALUE is missing"
  done
}

step() {
  if $dry_run; then
    printf '+'
    printf ' %q' "$@"
    printf '\n'
  else
    "$@"
  fi
}
