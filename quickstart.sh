#!/usr/bin/env bash
# The whole method on the demo benchmark: sets up .venv, draws the data, makes the tiny base model, runs every training
# and evaluation, writes runs/demo/report.html. Run it again after an interruption and it resumes.
#
#   bash quickstart.sh                 one seed
#   bash quickstart.sh --seeds 0 1 2   the preparation with three seeds: is the order of the weights stable?
#   CORES=8 bash quickstart.sh         more jobs at a time (each takes one core and about 1 GiB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts_visatb/setup.sh
answer_help quickstart.sh "visatb run --help" "$@"
set_up
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false NUM_GPUS="${NUM_GPUS:-0}"
# glibc then keeps the memory of large tensors for the next ones, instead of fetching zeroed pages for each.
export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=2147483648
# `exec`: killing this process then kills the run.
exec python -m scripts_visatb.demo.quickstart --cores="${CORES:-2}" "$@"
