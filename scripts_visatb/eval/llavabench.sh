#!/usr/bin/env bash
# LLaVA-Bench (in the Wild): the answers. Data: playground/data/eval/llava-bench-in-the-wild, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/llavabench.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark llavabench "$@"
