#!/usr/bin/env bash
# Finetunes a LLaVA checkpoint on your own data. Projector and vision tower are the checkpoint's.
#
#   DATA_PATH=data/mine.json IMAGE_FOLDER=data/images OUTPUT_DIR=checkpoints/llava-mine \
#   bash scripts_visatb/finetune_task.sh [more flags]
#
# Required: DATA_PATH, OUTPUT_DIR. BENCHMARK names tasks; without it all records are one. docs/training.md lists all
# variables.
set -euo pipefail

export BASE_MODEL_PATH="${BASE_MODEL_PATH:-liuhaotian/llava-v1.5-7b}"
base_sees=true
set -- --group_by_modality_length True "$@"
source "$(dirname "${BASH_SOURCE[0]}")/finetune.sh"
