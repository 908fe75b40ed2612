#!/usr/bin/env bash
# TextVQA (val): VQA accuracy. Data: playground/data/eval/textvqa, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/textvqa.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark textvqa "$@"
