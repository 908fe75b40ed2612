#!/usr/bin/env bash
# MMBench-CN (dev): circular accuracy, and the workbook for the server. Data: playground/data/eval/mmbench, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/mmbench_cn.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark mmbench_cn "$@"
