#!/bin/bash
# The paper preset as a Slurm array of sixteen tasks, one GPU each; `fusenorm reproduce` takes its shard from
# SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_MIN and SLURM_ARRAY_TASK_COUNT. Tasks that are requeued go on with the cells that
# are not there yet, and within a long one from its checkpoint.
#
#   sbatch slurm-array.sh
#   FUSENORM_PRESET=standard sbatch slurm-array.sh learning-rates --seeds 3    # what follows the file goes to `fusenorm reproduce`
#   scontrol requeue JOB_TASK                              # a task that failed
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

# Not quoted: it may be several words.
${FUSENORM_COMMAND:-npx fusenorm-cli} reproduce --preset "${FUSENORM_PRESET:-paper}" --data "$data" --out "$out" "$@"
