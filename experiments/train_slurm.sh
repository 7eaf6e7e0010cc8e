#!/bin/bash
# Trains on two machines with four GPUs each, through Slurm:
#   sbatch experiments/train_slurm.sh --flagfile=RECIPE --records=RECORDS --output=RUN
# One process a machine takes all of its GPUs; records and output are folders that both see, and --batch_size counts the
# clips of one GPU. If a process is lost all end, and the job goes on from the last checkpoint when Slurm requeues it
# or the same command is given again. Before the time limit the run is asked to stop and saves.
#SBATCH --job-name=i3d_tf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Not by TensorFlow's SlurmClusterResolver, which sorts machines as texts, n10 before n9, against Slurm's order of tasks.
WORKERS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/.*/\"&:${PORT:-8888}\"/" | paste -sd, -)
export WORKERS
exec srun --kill-on-bad-exit=1 bash -c '
  export TF_CONFIG="{\"cluster\": {\"worker\": [$WORKERS]}, \"task\": {\"type\": \"worker\", \"index\": $SLURM_PROCID}}"
  exec python -m i3d_tf.train "$@"
' train "$@"
