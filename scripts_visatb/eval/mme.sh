#!/usr/bin/env bash
# MME: perception and cognition. Data: playground/data/eval/MME, see docs/evaluation.md.
#
#   CKPT=checkpoints/my-model bash scripts_visatb/eval/mme.sh [flags of llava.eval.suite]
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/run.sh"
run_benchmark mme "$@"
