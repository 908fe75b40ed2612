#!/usr/bin/env bash
# LLaVA-COCO: answers, reviews by JUDGE_MODEL, the relative score. Data: playground/data/eval/coco2014_val_qa_eval, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model JUDGE_MODEL=gpt-4-0613 bash scripts_visatb/eval/llavacoco_review.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark llavacoco_review "$@"
