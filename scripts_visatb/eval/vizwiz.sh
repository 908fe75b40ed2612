#!/usr/bin/env bash
# VizWiz (test): the file for the server. Data: playground/data/eval/vizwiz, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/vizwiz.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark vizwiz "$@"
