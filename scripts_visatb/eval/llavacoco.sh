#!/usr/bin/env bash
# LLaVA-COCO: the answers. Data: playground/data/eval/coco2014_val_qa_eval, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/llavacoco.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark llavacoco "$@"
