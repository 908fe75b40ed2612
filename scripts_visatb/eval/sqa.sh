#!/usr/bin/env bash
# ScienceQA (test): accuracy on questions with an image, and by subject, context and grade. Data: playground/data/eval/scienceqa, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/sqa.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark sqa "$@"
