#!/usr/bin/env bash
# Visual instruction tuning of LLaVA-1.5 on the Chat benchmark (conversation, detail, complex_reasoning): 3 epochs.
#
#   DATA_PATH=data/chat_train-158k.json IMAGE_FOLDER=data/images OUTPUT_DIR=checkpoints/visatb-chat \
#   PRETRAIN_MM_MLP_ADAPTER=checkpoints/pretrain-7b/mm_projector.bin BENCHMARK=... \
#   VISATB_WEIGHTS="0.9 1.0 1.1" bash scripts_visatb/finetune_chat.sh [more flags]
#
# Required: DATA_PATH, OUTPUT_DIR, BENCHMARK. docs/training.md lists all variables.
set -euo pipefail

: "${DATA_PATH:?set DATA_PATH to the training annotation file}"
: "${BENCHMARK:?set BENCHMARK to the benchmark file that names the tasks, e.g. scripts_visatb/benchmarks/demo.yaml}"
export BASE_MODEL_PATH="${BASE_MODEL_PATH:-lmsys/vicuna-7b-v1.5}"
export NUM_TRAIN_EPOCHS="${NUM_TRAIN_EPOCHS:-3}"
source "$(dirname "${BASH_SOURCE[0]}")/finetune.sh"
