"""TRL's SFTTrainer with a task weighter."""

from trl import SFTTrainer

from visatb_hf.trainer import TaskWeighting


class WeightedSFTTrainer(TaskWeighting, SFTTrainer):
    """`trl.SFTTrainer` with a task weighter; TRL's other loss types and its token accuracy are not available."""
