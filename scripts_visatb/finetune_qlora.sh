#!/usr/bin/env bash
# QLoRA: finetune_lora.sh over a language model in 4 bits. Needs NVIDIA GPUs and pip install -e '.[quantisation]'.
#
#   DATA_PATH=subsets/academic_train-475k.json IMAGE_FOLDER=playground/data OUTPUT_DIR=checkpoints/visatb-7b-qlora \
#   BENCHMARK=scripts_visatb/benchmarks/academic.yaml \
#   PRETRAIN_MM_MLP_ADAPTER=checkpoints/pretrain-vicuna-7b-v1.5/mm_projector.bin \
#   bash scripts_visatb/finetune_qlora.sh [more flags]
#
# Required: DATA_PATH, OUTPUT_DIR. BITS=8 for 8 bits. docs/training.md lists all variables.
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
export DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG:-$here/zero2.json}" # ZeRO-3 cannot split what is quantised
set -- --bits="${BITS:-4}" "$@"
source "$here/finetune_lora.sh"
