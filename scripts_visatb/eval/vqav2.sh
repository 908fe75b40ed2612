#!/usr/bin/env bash
# VQAv2 (test): the file for the server. Data: playground/data/eval/vqav2, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/vqav2.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark vqav2 "$@"
