#!/usr/bin/env bash
# LLaVA-1.5's stage 1: trains the projector alone on image captions and writes OUTPUT_DIR/mm_projector.bin.
#
#   DATA_PATH=playground/data/blip_laion_cc_sbu_558k.json IMAGE_FOLDER=playground/data/images \
#   OUTPUT_DIR=checkpoints/pretrain-vicuna-7b-v1.5 bash scripts_visatb/pretrain.sh [more flags]
#
# Required: DATA_PATH, IMAGE_FOLDER, OUTPUT_DIR. docs/training.md lists all variables.
set -euo pipefail

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

require DATA_PATH "the caption annotation file" playground/data/blip_laion_cc_sbu_558k.json
require IMAGE_FOLDER "the folder of the images" playground/data/images
require OUTPUT_DIR "the folder of the projector" checkpoints/pretrain-vicuna-7b-v1.5

export DEEPSPEED_CONFIG="${DEEPSPEED_CONFIG:-$SCRIPTS/zero2.json}"

launch_training \
    --model_name_or_path="${BASE_MODEL_PATH:-lmsys/vicuna-7b-v1.5}" \
    --version plain \
    --data_path="$DATA_PATH" \
    --image_folder="$IMAGE_FOLDER" \
    --vision_tower="${VISION_TOWER:-openai/clip-vit-large-patch14-336}" \
    --mm_projector_type="${MM_PROJECTOR_TYPE:-mlp2x_gelu}" \
    --tune_mm_mlp_adapter True \
    --mm_vision_select_layer="${MM_VISION_SELECT_LAYER:--2}" \
    --mm_use_im_start_end False \
    --mm_use_im_patch_token False \
    --image_aspect_ratio="${IMAGE_ASPECT_RATIO:-square}" \
    --output_dir="$OUTPUT_DIR" \
    --num_train_epochs="${NUM_TRAIN_EPOCHS:-1}" \
    --per_device_train_batch_size="${PER_DEVICE_TRAIN_BATCH_SIZE:-32}" \
    --gradient_accumulation_steps="${GRADIENT_ACCUMULATION_STEPS:-1}" \
    --evaluation_strategy no \
    --save_strategy="${SAVE_STRATEGY:-steps}" \
    --save_steps="${SAVE_STEPS:-2000}" \
    --save_total_limit="${SAVE_TOTAL_LIMIT:-1}" \
    --learning_rate="${LEARNING_RATE:-1e-3}" \
    --weight_decay="${WEIGHT_DECAY:-0.}" \
    --warmup_ratio="${WARMUP_RATIO:-0.03}" \
    --lr_scheduler_type="${LR_SCHEDULER_TYPE:-cosine}" \
    --logging_steps="${LOGGING_STEPS:-1}" \
    --model_max_length="${MODEL_MAX_LENGTH:-2048}" \
    --gradient_checkpointing="${GRADIENT_CHECKPOINTING:-True}" \
    --dataloader_num_workers="${DATALOADER_NUM_WORKERS:-4}" \
    --lazy_preprocess True \
    --report_to="${REPORT_TO:-tensorboard}" \
    --seed="${SEED:-0}" \
    "$@"
