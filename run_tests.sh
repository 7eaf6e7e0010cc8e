#!/usr/bin/env bash
# From a bare machine with Python 3.10 to 3.13 to tested code: ./run_tests.sh [ARGUMENTS OF PYTEST]
# Makes .venv, installs the project, and runs lint, types, the BUILD checks, the tests and the commands of the manuals.
# .ci/bazel/run.sh also checks the BUILD files with a real Bazel, which it fetches from npm.
# With arguments, only the tests that they select.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
source .ci/environment.sh
enter_environment "[test]"

if (($#)); then
  exec python -m pytest "$@"
fi

ruff check .
ruff format --check --quiet . || { echo "The files above are not formatted; run: ruff format ." >&2; exit 1; }
python .ci/build_files.py
python .ci/house.py --check
python -m i3d_tf.download rgb_scratch
# Some packages at a time, so that no test process holds the networks of all of them.
parts=("models" "training weights" "data video flow input" "inference features exporting frechet"
  "evaluation visualization anomaly fitting runners serving" "*_test.py")
for file in i3d_tf/*/*_test.py; do
  package=$(basename "$(dirname "$file")")
  [[ " ${parts[*]} " == *" $package "* ]] || { echo "$file is in no part of run_tests.sh" >&2; exit 1; }
done
failed=0
for part in "${parts[@]}"; do
  # shellcheck disable=SC2046  # words and patterns
  python -m pytest --numprocesses=3 --dist=loadscope --quiet $(printf "i3d_tf/%s " $part) || failed=1
done
((failed == 0)) || { echo "Tests have failed, see above" >&2; exit 1; }
python .ci/readme.py
