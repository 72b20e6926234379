#!/usr/bin/env bash
# Starts a run again when it was stopped:  bash launch/retry.sh python -m score_jax.main --config=... --workdir=...
# After exit code 75 or death by a signal the command runs again, after BACKOFF=5 seconds, then twice as many, up to ten
# minutes; any other code ends it. 69: RESTARTS=20 restarts in a row, none of which ran for ten minutes.
set -um
restarts="${RESTARTS:-20}" backoff="${BACKOFF:-5}" failures=0 stopped='' child=''
(($#)) || { echo 'error: name a command, e.g. bash launch/retry.sh python -m score_jax.main --config=...' >&2; exit 78; }
# The command has a process group to itself: a signal, Ctrl-C too, comes here and is passed on once.
pass_on() { stopped=$1; kill "-$1" "$child" 2>/dev/null; }
trap 'pass_on TERM' TERM; trap 'pass_on INT' INT; trap 'pass_on HUP' HUP
finished() { while wait "$child"; code=$?; kill -0 "$child" 2>/dev/null; do :; done; } # a signal interrupts `wait`
while [[ -z "$stopped" ]]; do
  begun=$SECONDS
  "$@" & child=$!
  [[ -z "$stopped" ]] || pass_on "$stopped" # it came while the command was being started
  finished
  [[ -z "$stopped" ]] || exit $((code > 128 ? 75 : code))
  ((code == 75 || code > 128)) || exit "$code"
  ((SECONDS - begun < 600)) || failures=0
  ((failures++ < restarts)) || exit 69
  delay=$((failures > 7 ? 600 : backoff << (failures - 1)))
  echo "exit code $code; again in $delay s" >&2
  sleep "$delay" & child=$!
  finished
done
exit 75
