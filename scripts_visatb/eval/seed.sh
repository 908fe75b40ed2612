#!/usr/bin/env bash
# SEED-Bench: accuracy by question type, of images and videos. Data: playground/data/eval/seed_bench, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/seed.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark seed "$@"
