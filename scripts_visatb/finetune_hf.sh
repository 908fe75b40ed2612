#!/usr/bin/env bash
# Visual instruction tuning of a current model (Qwen2-VL to Qwen3-VL, InternVL, SmolVLM, LLaVA-OneVision, ...) with task
# weights, in the environment of requirements-hf.txt (docs/current_models.md).
#
#   DATA_PATH=subsets/academic_train-475k.json IMAGE_FOLDER=playground/data OUTPUT_DIR=checkpoints/visatb-qwen2vl \
#   BENCHMARK=scripts_visatb/benchmarks/academic_qwen2vl.yaml BASE_MODEL_PATH=Qwen/Qwen2-VL-2B-Instruct \
#   VISATB_WEIGHTS="0.86 1.06 0.81 0.82 1.00 0.82 1.64 1.0" bash scripts_visatb/finetune_hf.sh [more flags]
#
# Required: DATA_PATH, OUTPUT_DIR, BASE_MODEL_PATH. PYTHON_HF names the interpreter: by default the one of .venv-hf in the
# checkout, or PYTHON without it. LORA_ENABLE=True trains adapters. Everything is set from the environment; flags given to
# the script come last and win.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
entry=visatb_hf/train.py
more_flags="python -m visatb_hf.train --help"
source "$here/launch.sh"

require DATA_PATH "the training annotation file" data/train.json
require OUTPUT_DIR "the folder of the new model" checkpoints/mine
require BASE_MODEL_PATH "the base model" Qwen/Qwen2-VL-2B-Instruct

if [ -z "${PYTHON_HF:-}" ] && [ -x "$here/../.venv-hf/bin/python" ]; then
    PYTHON_HF="$here/../.venv-hf/bin/python"
fi
if [ -n "${PYTHON_HF:-}" ]; then
    [ -x "$PYTHON_HF" ] || refuse "PYTHON_HF must be a Python interpreter, got $(shown "$PYTHON_HF"). Change it."
    export PYTHON="$PYTHON_HF" PATH="$(cd "$(dirname "$PYTHON_HF")" && pwd):$PATH" # deepspeed is beside it
fi

lora="${LORA_ENABLE:-False}"
if [ "$lora" = True ] && [ -z "${LEARNING_RATE:-}" ]; then
    LEARNING_RATE=1e-4 # adapters learn at ten times the rate
fi
flags=(
    --model_name_or_path="$BASE_MODEL_PATH"
    --data_path="$DATA_PATH"
    --weight_method="${WEIGHT_METHOD:-EW}"
    --output_dir="$OUTPUT_DIR"
    --freeze_vision_tower="${FREEZE_VISION_TOWER:-True}"
    --freeze_projector="${FREEZE_PROJECTOR:-False}"
    --lora_enable="$lora"
    --lora_r="${LORA_R:-128}"
    --lora_alpha="${LORA_ALPHA:-256}"
    --lora_dropout="${LORA_DROPOUT:-0.05}"
    --bits="${BITS:-16}"
    --model_max_length="${MODEL_MAX_LENGTH:-2048}"
    --num_train_epochs="${NUM_TRAIN_EPOCHS:-1}"
    --per_device_train_batch_size="${PER_DEVICE_TRAIN_BATCH_SIZE:-4}"
    --gradient_accumulation_steps="${GRADIENT_ACCUMULATION_STEPS:-4}"
    --save_strategy="${SAVE_STRATEGY:-steps}"
    --save_steps="${SAVE_STEPS:-1000}"
    --save_total_limit="${SAVE_TOTAL_LIMIT:-1}"
    --learning_rate="${LEARNING_RATE:-1e-5}"
    --weight_decay="${WEIGHT_DECAY:-0.}"
    --warmup_steps="${WARMUP_RATIO:-0.03}"
    --lr_scheduler_type="${LR_SCHEDULER_TYPE:-cosine}"
    --logging_steps="${LOGGING_STEPS:-1}"
    --gradient_checkpointing="${GRADIENT_CHECKPOINTING:-True}"
    --dataloader_num_workers="${DATALOADER_NUM_WORKERS:-4}"
    --report_to="${REPORT_TO:-none}"
    --seed="${SEED:-0}"
)
[ -z "${BENCHMARK:-}" ] || flags+=(--benchmark="$BENCHMARK")
[ -z "${IMAGE_FOLDER:-}" ] || flags+=(--image_folder="$IMAGE_FOLDER")
[ -z "${CHAT_TEMPLATE:-}" ] || flags+=(--chat_template="$CHAT_TEMPLATE")
[ -z "${MIN_PIXELS:-}" ] || flags+=(--min_pixels="$MIN_PIXELS")
[ -z "${MAX_PIXELS:-}" ] || flags+=(--max_pixels="$MAX_PIXELS")
[ -z "${TASK_SAMPLING:-}" ] || flags+=(--task_sampling="$TASK_SAMPLING")
[ -z "${VISATB_WEIGHTS:-}" ] || flags+=(--visatb_weights="$VISATB_WEIGHTS")

launch_training "${flags[@]}" "$@"
