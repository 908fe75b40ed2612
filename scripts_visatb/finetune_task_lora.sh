#!/usr/bin/env bash
# Finetunes a LLaVA checkpoint on your own data with LoRA. Projector and vision tower are the checkpoint's.
#
#   DATA_PATH=data/mine.json IMAGE_FOLDER=data/images OUTPUT_DIR=checkpoints/llava-mine-lora \
#   bash scripts_visatb/finetune_task_lora.sh [more flags]
#
# Required: DATA_PATH, OUTPUT_DIR. BENCHMARK names tasks; without it all records are one. docs/training.md lists all
# variables.
set -euo pipefail

export BASE_MODEL_PATH="${BASE_MODEL_PATH:-liuhaotian/llava-v1.5-7b}"
base_sees=true
source "$(dirname "${BASH_SOURCE[0]}")/finetune_lora.sh"
