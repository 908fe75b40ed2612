#!/usr/bin/env bash
# POPE: F1, accuracy, precision, recall and share of yes. Data: playground/data/eval/pope, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/pope.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark pope "$@"
