#!/usr/bin/env bash
# From a bare machine with Python 3.10 to 3.13 to tested code: ./run_tests.sh [ARGUMENTS OF PYTEST]
# Makes .venv, installs the project, and runs lint, the BUILD checks, the tests and the README's commands.
# With arguments, only the tests that they select.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
source .ci/environment.sh
enter_environment "[test]"

if (($#)); then
  exec python -m pytest "$@"
fi

ruff check .
python .ci/build_files.py
if command -v npm >/dev/null; then
  .ci/bazel/run.sh
else
  echo "The check with a real Bazel is left out: it needs npm"
fi
python -m i3d_tf.download rgb_scratch
python -m pytest --numprocesses=3 --dist=loadscope --quiet i3d_tf
python .ci/readme.py
