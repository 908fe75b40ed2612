"""The trained model in its output folder: checked before it takes its place."""

import os
import shutil
from pathlib import Path

from peft import PeftModel

from llava.model import LlavaLlamaForCausalLM
from llava.model.weights import read_state_dict, read_tensors
from llava.train.llava_trainer import PROJECTOR_FILE, LLaVATrainer
from llava.train.lora import unsaved
from transformers_patch.checkpoints import STAGING, kind_of
from transformers_patch.publish import flush


def check_saved(model: LlavaLlamaForCausalLM | PeftModel, folder: Path, vocabulary_grew: bool = False) -> None:
    """Reopen the saved files: all parameters, or those of a LoRA folder, or of the projector, must be present.

    Their shapes and dtypes are checked too, of ZeRO-3's parameters as well.

    Args:
        model: the trained model.
        folder: where it was saved.
        vocabulary_grew: a LoRA folder must hold embeddings and lm_head.

    Raises:
        RuntimeError: naming the parameters that are not.
    """
    wrong = unsaved(model, folder, vocabulary_grew) if isinstance(model, PeftModel) else _unsaved(model, folder)
    if wrong:
        raise RuntimeError(
            f"{folder}: {len(wrong)} parameters are missing or of another shape or dtype: {', '.join(wrong[:5])}"
        )


def _unsaved(model: LlavaLlamaForCausalLM, folder: Path) -> list[str]:
    projector = folder / PROJECTOR_FILE
    saved = read_tensors(projector) if projector.exists() else read_state_dict(folder)
    return [
        name
        for name, parameter in model.named_parameters()
        if ("mm_projector" in name or not projector.exists())
        and (name not in saved or kind_of(saved[name]) != kind_of(parameter))
    ]


def save_final_model(trainer: LLaVATrainer) -> None:
    """Save the trained model into the output folder: written to temporary files, then renamed one by one.

    Raises:
        SaveError: on all ranks, if one could not write.
    """
    args = trainer.args
    output = Path(args.output_dir)
    staging = output / STAGING / "final"
    trainer.model.config.use_cache = True
    with trainer.writing(output):
        trainer.save_model(str(staging))
    with trainer.writing(output):
        if trainer.is_world_process_zero():
            check_saved(trainer.model, staging, trainer.vocabulary_grew)
            trainer.state.save_to_json(str(staging / "trainer_state.json"))
            flush(staging)
            for file in sorted(staging.iterdir()):
                os.replace(file, output / file.name)
            shutil.rmtree(output / STAGING)
