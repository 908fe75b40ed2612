#!/usr/bin/env bash
# MM-Vet: the file for the official evaluator; the score once its grades are there. Data: playground/data/eval/mm-vet, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/mmvet.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark mmvet "$@"
