#!/usr/bin/env bash
# LoRA: LLaVA-1.5's recipe for adapters on a frozen language model, the projector trained with them.
#
#   DATA_PATH=subsets/academic_train-475k.json IMAGE_FOLDER=playground/data OUTPUT_DIR=checkpoints/visatb-7b-lora \
#   BENCHMARK=scripts_visatb/benchmarks/academic.yaml \
#   PRETRAIN_MM_MLP_ADAPTER=checkpoints/pretrain-vicuna-7b-v1.5/mm_projector.bin \
#   VISATB_WEIGHTS="0.86 1.06 0.81 0.82 1.00 0.82 1.64 1.0" bash scripts_visatb/finetune_lora.sh [more flags]
#
# Required: DATA_PATH, OUTPUT_DIR. LORA_WEIGHT_PATH names an adapter folder to start from. docs/training.md lists all
# variables.
set -euo pipefail

export BASE_MODEL_PATH="${BASE_MODEL_PATH:-lmsys/vicuna-7b-v1.5}"
export LEARNING_RATE="${LEARNING_RATE:-2e-4}"
export MM_PROJECTOR_LR="${MM_PROJECTOR_LR:-2e-5}"
set -- --group_by_modality_length True --lora_enable True --lora_r="${LORA_R:-128}" --lora_alpha="${LORA_ALPHA:-256}" \
    --lora_dropout="${LORA_DROPOUT:-0.05}" --lora_weight_path="${LORA_WEIGHT_PATH:-}" "$@"
source "$(dirname "${BASH_SOURCE[0]}")/finetune.sh"
