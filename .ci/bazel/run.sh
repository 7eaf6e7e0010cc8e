#!/usr/bin/env bash
# Checks the BUILD files with a real Bazel: every module has its target, buildifier likes the style, `bazel build`
# builds every target, and `bazel test` passes the small tests (those that need no TensorFlow).
#
# Needs an environment with the project's packages (active, or .venv), git, and npm for the first run, which keeps
# the two tools in $I3D_TOOLS (default ~/.cache/i3d_tf_tools). Bazel works on a copy of the tree and leaves nothing.
set -euo pipefail

bazel_version=2.1.0
buildifier_version=8.2.1
sums="e13581d44faad6ac807dd917e682fef20359d26728166ac35dadd8ee653a580d  bazel-$bazel_version
6ceb7b0ab7cf66fceccc56a027d21d9cc557a7f34af37d2101edb56b92fcfa1a  buildifier-$buildifier_version"

fail() {
  echo "Bazel check: $*" >&2
  exit 1
}

# Puts both tools into $tools, unless they are there and whole.
fetch_tools() {
  mkdir -p "$tools"
  cd "$tools"
  if sha256sum --check --status <<<"$sums" 2>/dev/null; then return; fi
  command -v npm >/dev/null || fail "npm is missing; install Node.js, which brings it, to fetch Bazel and buildifier"
  echo "Fetching Bazel $bazel_version and buildifier $buildifier_version into $tools"
  npm install --prefix "$work/npm" --cache "$work/npm_cache" --ignore-scripts --no-audit --no-fund --loglevel=error \
    "@bazel/bazel-linux_x64@$bazel_version" "@bazel/buildifier@$buildifier_version" ||
    fail "npm could not fetch Bazel and buildifier; is there a network?"
  local packages=$work/npm/node_modules/@bazel
  install_tool "$packages/bazel-linux_x64/bazel-$bazel_version-linux-x86_64" "bazel-$bazel_version"
  install_tool "$packages/buildifier/buildifier-linux_amd64" "buildifier-$buildifier_version"
  sha256sum --check --quiet <<<"$sums" || fail "npm gave other files than expected (see above)"
}

# A rename is atomic, so that another run never sees half a tool.
install_tool() {
  local fresh
  fresh=$(mktemp "$tools/$2.XXXXXX")
  install -m 755 "$1" "$fresh"
  mv "$fresh" "$tools/$2"
}

# Copies the files that git knows, or would, into the workspace: no WORKSPACE or bazel-* link enters the real tree.
make_workspace() {
  mkdir "$work/tree"
  cd "$root"
  git -c safe.directory="$root" ls-files -coz --exclude-standard >"$work/files" || fail "git cannot list the files"
  while read -rd '' file; do
    if [[ -f $file ]]; then cp --parents "$file" "$work/tree"; fi
  done <"$work/files"
  cp .ci/bazel/WORKSPACE .ci/bazel/stubs.bzl "$work/tree"
  cd "$work/tree"
  grep -rho --include=BUILD 'requirement("[^"]*")' . | cut -d'"' -f2 | sort -u >distributions.txt
}

[[ $(uname -sm) == "Linux x86_64" ]] || fail "it runs on Linux x86_64 only, and this is $(uname -sm)"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tools=${I3D_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/i3d_tf_tools}
environment=${VIRTUAL_ENV:-$root/.venv}
if [[ -d $environment/bin ]]; then PATH=$environment/bin:$PATH; fi
python -c "import absl" 2>/dev/null || fail "the python on PATH lacks the project's packages; activate its environment"
work=$(mktemp -d)
trap 'chmod -R u+w "$work" && rm -rf "$work"' EXIT

python "$root/.ci/build_files.py" --check
fetch_tools
make_workspace
mapfile -t build_files < <(find . -name .ci -prune -o \( -name BUILD -o -name WORKSPACE -o -name "*.bzl" \) -print)
"$tools/buildifier-$buildifier_version" -mode=check -lint=warn "${build_files[@]}" ||
  fail "buildifier wants other text (see above)"
# One command builds everything and runs the small tests. In batch mode there is no server to outlive it. Bazel wants
# to know the C compiler, though nothing here is compiled: `true` will do.
CC=true "$tools/bazel-$bazel_version" --batch --nosystem_rc --nohome_rc --output_user_root="$work/out" \
  test --test_size_filters=small --test_env=I3D_SHARED="${I3D_SHARED:-$root/../shared}" \
  --test_output=errors --noshow_progress --color=no //... ||
  fail "a target does not build or a small test fails (see above)"
echo "Bazel check passed: ${#build_files[@]} files in style, every target builds, the small tests pass."
