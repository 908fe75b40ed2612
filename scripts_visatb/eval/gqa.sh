#!/usr/bin/env bash
# GQA (testdev balanced): accuracy. Data: playground/data/eval/gqa, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/gqa.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark gqa "$@"
