# Sourced by quickstart.sh and run_tests.sh, from the project's root.
# enter_environment EXTRAS: makes .venv if it is not there, installs the project into it, and activates it.

enter_environment() {
  local python candidate wanted
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
    if [[ -n $candidate ]] && "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if [[ -z ${python:-} ]]; then
    echo "$0: no Python 3.10 to 3.13 found; install one, or name it in \$PYTHON" >&2
    exit 1
  fi
  # An environment is complete when it was made for this setup.py and these extras, or more than them.
  # Of several at once, say tests that begin while a quickstart does, one does this and the others wait.
  exec 9<.ci/environment.sh
  if command -v flock >/dev/null; then flock 9; fi
  local setup installed
  setup=$(cksum <setup.py)
  wanted="$1 $setup"
  installed=$(cat .venv/installed 2>/dev/null || true)
  if [[ $installed != "$wanted" && ! (-z $1 && $installed == *"] $setup") ]]; then
    echo "Making .venv and installing i3d_tf$1 with TensorFlow into it (about 600 MB, a few minutes the first time)"
    if ! "$python" -m venv .venv; then
      echo "$0: $python cannot make virtual environments; on Debian install python3-venv" >&2
      exit 1
    fi
    .venv/bin/python -m pip install -qq --upgrade pip
    .venv/bin/python -m pip install -qq --editable ".$1"
    echo "$wanted" >.venv/installed
  fi
  exec 9<&-
  source .venv/bin/activate
}
