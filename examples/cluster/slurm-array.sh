#!/bin/bash
# The paper preset as a Slurm array of sixteen tasks, one GPU each; `fusenorm reproduce` takes its shard from
# SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_MIN and SLURM_ARRAY_TASK_COUNT. Tasks that are requeued go on with the cells that
# are not there yet.
#
#   sbatch slurm-array.sh
#   npx fusenorm-cli report results        # when the tasks have ended, or to see how far they are
#
#SBATCH --job-name=fusenorm
#SBATCH --array=0-15
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=fusenorm-%A-%a.log

set -euo pipefail

# On a file system that all nodes share.
data=${FUSENORM_DATA:-$SLURM_SUBMIT_DIR/cifar-10-batches-bin}
out=${FUSENORM_OUT:-$SLURM_SUBMIT_DIR/results}

npx fusenorm reproduce --preset paper --data "$data" --out "$out"
