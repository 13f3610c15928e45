#!/bin/bash
# One model in as many files as the array has tasks, each made by a task of its own:
#
#   sbatch --array=1-8 examples/slurm-array.sh /shared/models/Llama-3.1-70B q4_k_m /shared/gguf/llama-70b.gguf
#   qconv verify /shared/gguf/llama-70b-00001-of-00008.gguf      # when all are done: the first file stands for all
#
# A task that is preempted keeps what it has done (--resume); one that is requeued after its end does nothing (--if-changed).
#SBATCH --job-name=qconv
#SBATCH --cpus-per-task=8
#SBATCH --mem=2G
#SBATCH --requeue
#SBATCH --output=qconv-%A-%a.log
set -euo pipefail

model=$1 type=$2 output=$3
exec "${QCONV:-qconv}" convert "$model" -t "$type" -o "$output" \
  --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
  --threads "${SLURM_CPUS_PER_TASK:-1}" --resume --if-changed
