#!/usr/bin/env bash
# Visual instruction tuning of LLaVA-1.5 on the Academic benchmark with a Vicuna 13b base.
#
#   DATA_PATH=subsets/academic_train-475k.json IMAGE_FOLDER=playground/data OUTPUT_DIR=checkpoints/visatb-13b \
#   PRETRAIN_MM_MLP_ADAPTER=checkpoints/pretrain-vicuna-13b-v1.5/mm_projector.bin \
#   VISATB_WEIGHTS="0.86 1.06 0.81 0.82 1.00 0.82 1.64 1.0" bash scripts_visatb/finetune_academic_vicuna13b.sh [more flags]
#
# Required: DATA_PATH, OUTPUT_DIR. docs/training.md lists all variables.
set -euo pipefail

here="$(dirname "${BASH_SOURCE[0]}")"
export BASE_MODEL_PATH="${BASE_MODEL_PATH:-lmsys/vicuna-13b-v1.5}"
export BENCHMARK="${BENCHMARK:-$here/benchmarks/academic.yaml}"
source "$here/finetune.sh"
