# Sourced by the finetune scripts: the recipe of LLaVA-1.5's instruction tuning with task weights. Everything is set
# from the environment; flags given to the script come last and win. With base_sees=true the base is a LLaVA checkpoint,
# which has a vision tower, a projector and image tokens of its own. A value is one word, `--flag=value`, so that
# nothing in it is taken for another flag.

source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

require DATA_PATH "the training annotation file" data/train.json
require OUTPUT_DIR "the folder of the new model" checkpoints/mine
require BASE_MODEL_PATH "the base model" lmsys/vicuna-7b-v1.5

if [ "${base_sees:-}" != true ]; then
    VISION_TOWER="${VISION_TOWER:-openai/clip-vit-large-patch14-336}"
    MM_PROJECTOR_TYPE="${MM_PROJECTOR_TYPE:-mlp2x_gelu}"
    MM_VISION_SELECT_LAYER="${MM_VISION_SELECT_LAYER:--2}"
fi

flags=(
    --model_name_or_path="$BASE_MODEL_PATH"
    --version="${PROMPT_VERSION:-v1}"
    --data_path="$DATA_PATH"
    --image_aspect_ratio="${IMAGE_ASPECT_RATIO:-pad}"
    --weight_method="${WEIGHT_METHOD:-EW}"
    --loss_normalization="${LOSS_NORMALIZATION:-step}"
    --output_dir="$OUTPUT_DIR"
    --num_train_epochs="${NUM_TRAIN_EPOCHS:-1}"
    --per_device_train_batch_size="${PER_DEVICE_TRAIN_BATCH_SIZE:-16}"
    --gradient_accumulation_steps="${GRADIENT_ACCUMULATION_STEPS:-1}"
    --evaluation_strategy no
    --save_strategy="${SAVE_STRATEGY:-steps}"
    --save_steps="${SAVE_STEPS:-1000}"
    --save_total_limit="${SAVE_TOTAL_LIMIT:-1}"
    --learning_rate="${LEARNING_RATE:-2e-5}"
    --weight_decay="${WEIGHT_DECAY:-0.}"
    --warmup_ratio="${WARMUP_RATIO:-0.03}"
    --lr_scheduler_type="${LR_SCHEDULER_TYPE:-cosine}"
    --logging_steps="${LOGGING_STEPS:-1}"
    --model_max_length="${MODEL_MAX_LENGTH:-2048}"
    --gradient_checkpointing="${GRADIENT_CHECKPOINTING:-True}"
    --dataloader_num_workers="${DATALOADER_NUM_WORKERS:-4}"
    --lazy_preprocess True
    --report_to="${REPORT_TO:-tensorboard}"
    --seed="${SEED:-0}"
)
[ "${base_sees:-}" = true ] || flags+=(--mm_use_im_start_end False --mm_use_im_patch_token False)
[ -z "${VISION_TOWER:-}" ] || flags+=(--vision_tower="$VISION_TOWER")
[ -z "${MM_PROJECTOR_TYPE:-}" ] || flags+=(--mm_projector_type="$MM_PROJECTOR_TYPE")
[ -z "${MM_VISION_SELECT_LAYER:-}" ] || flags+=(--mm_vision_select_layer="$MM_VISION_SELECT_LAYER")
# Without a benchmark all records are one task.
[ -z "${BENCHMARK:-}" ] || flags+=(--benchmark="$BENCHMARK")
[ -z "${IMAGE_FOLDER:-}" ] || flags+=(--image_folder="$IMAGE_FOLDER")
[ -z "${PRETRAIN_MM_MLP_ADAPTER:-}" ] || flags+=(--pretrain_mm_mlp_adapter="$PRETRAIN_MM_MLP_ADAPTER")
[ -z "${MM_PROJECTOR_LR:-}" ] || flags+=(--mm_projector_lr="$MM_PROJECTOR_LR")
[ -z "${TASK_SAMPLING:-}" ] || flags+=(--task_sampling="$TASK_SAMPLING")
[ -z "${VISATB_WEIGHTS:-}" ] || flags+=(--visatb_weights="$VISATB_WEIGHTS")

launch_training "${flags[@]}" "$@"
