"""LLaVA's constants: the values that data files, checkpoints and other people's code depend on."""

IGNORE_INDEX = -100  # label of a token that is not supervised
IMAGE_TOKEN_INDEX = -200  # placeholder in `input_ids` for the features of an image
DEFAULT_IMAGE_TOKEN = "<image>"
DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"
DEFAULT_IM_START_TOKEN = "<im_start>"
DEFAULT_IM_END_TOKEN = "<im_end>"
IMAGE_PLACEHOLDER = "<image-placeholder>"  # placeholder for an image in a query of `eval_model`

CONTROLLER_HEART_BEAT_EXPIRATION = 30
WORKER_HEART_BEAT_INTERVAL = 15
LOGDIR = "."
