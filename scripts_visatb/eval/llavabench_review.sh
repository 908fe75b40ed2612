#!/usr/bin/env bash
# LLaVA-Bench (in the Wild): answers, reviews by JUDGE_MODEL, the relative score. Data: playground/data/eval/llava-bench-in-the-wild, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model JUDGE_MODEL=gpt-4-0613 bash scripts_visatb/eval/llavabench_review.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark llavabench_review "$@"
