#!/usr/bin/env bash
# Visual instruction tuning of LLaVA-1.5 on the Chat benchmark (conversation, detail, complex_reasoning): 3 epochs.
#
#   DATA_PATH=subsets/chat_train-158k.json IMAGE_FOLDER=playground/data OUTPUT_DIR=checkpoints/visatb-chat \
#   PRETRAIN_MM_MLP_ADAPTER=checkpoints/pretrain-vicuna-7b-v1.5/mm_projector.bin \
#   VISATB_WEIGHTS="0.9 1.0 1.1" bash scripts_visatb/finetune_chat.sh [more flags]
#
# Required: DATA_PATH, OUTPUT_DIR. docs/training.md lists all variables.
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
export BASE_MODEL_PATH="${BASE_MODEL_PATH:-lmsys/vicuna-7b-v1.5}"
export BENCHMARK="${BENCHMARK:-$here/benchmarks/chat.yaml}"
export NUM_TRAIN_EPOCHS="${NUM_TRAIN_EPOCHS:-3}"
source "$here/finetune.sh"
