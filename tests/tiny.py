"""Tiny models and data for tests, written without any of our own code so that they can test all of it.

    folder = make_tiny_checkpoint(tmp_path)      # folder/llama, folder/vision_tower, folder/mm_projector.bin,
                                                 # folder/llava-tiny
    annotation = make_tiny_dataset(tmp_path, 12) # annotation json; its images lie in annotation.parent / "images"

Sizes: Llama hidden 64, 2 layers, 4 heads, about 390 pieces; CLIP tower hidden 32, 3 layers, 56x56 images in 14x14
patches (16 per image). Weights are random with a wide spread, so that greedy choices are far apart.
"""

import io
import json
from pathlib import Path

VOCABULARY = 390
PATCHES_PER_IMAGE = 16
TASKS = ("SceneCaption", "ShapeVQA", "Grounding", "Chat")

_COLOURS = {"red": (220, 30, 30), "green": (20, 160, 60), "blue": (40, 60, 220), "yellow": (230, 210, 30)}
_SHAPES = ("square", "circle", "triangle", "ring")


def make_tiny_checkpoint(folder: Path, seed: int = 0, name: str = "llava-tiny", tower_inside: bool = False) -> Path:
    """Write a plain Llama base, a vision tower, a projector file and a whole LLaVA checkpoint; return `folder`.

    Args:
        folder: where to write; made if absent.
        seed: of the Llama's and the projector's weights (the vision tower is the same for every seed).
        name: folder name of the LLaVA checkpoint.
        tower_inside: put the tower's weights into the LLaVA checkpoint too, as training saves it.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    llama = _make_llama(folder / "llama", seed)
    tower = _make_vision_tower(folder / "vision_tower")
    draw = torch.Generator().manual_seed(seed + 1)
    projector = {
        "model.mm_projector.0.weight": 0.2 * torch.randn(64, 32, generator=draw),
        "model.mm_projector.0.bias": 0.1 * torch.randn(64, generator=draw),
        "model.mm_projector.2.weight": 0.2 * torch.randn(64, 64, generator=draw),
        "model.mm_projector.2.bias": 0.1 * torch.randn(64, generator=draw),
    }
    torch.save(projector, folder / "mm_projector.bin")

    checkpoint = folder / name
    make_tiny_tokenizer(checkpoint)
    tensors = {key: value.clone().contiguous() for key, value in llama.state_dict().items()} | projector
    if tower_inside:
        tensors |= {f"model.vision_tower.vision_tower.{key}": value for key, value in tower.state_dict().items()}
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    config = llama.config.to_dict() | {
        "model_type": "llava",
        "architectures": ["LlavaLlamaForCausalLM"],
        "torch_dtype": "float32",
        "mm_vision_tower": str((folder / "vision_tower").resolve()),
        "use_mm_proj": True,
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 32,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "tune_mm_mlp_adapter": False,
        "freeze_mm_mlp_adapter": False,
        "mm_projector_lr": None,
        "tokenizer_model_max_length": 512,
        "tokenizer_padding_side": "right",
    }
    config.pop("_name_or_path", None)
    (checkpoint / "config.json").write_text(json.dumps(config, indent=2))
    llama.generation_config.save_pretrained(checkpoint)
    return folder


def make_tiny_tokenizer(folder: Path) -> None:
    """Save a SentencePiece tokenizer of LLaMA's kind (byte fallback, <unk> <s> </s>) in Hugging Face's format."""
    import sentencepiece
    from transformers import LlamaTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_sentences()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    LlamaTokenizer(str(folder / "tokenizer.model"), legacy=True).save_pretrained(folder)


def make_tiny_dataset(folder: Path, n: int, name: str = "tiny_train-1k.json") -> Path:
    """Draw `n` records, every sixth without an image, and their images; return the annotation file.

    The images go to `folder/images`, with different sizes and aspect ratios.
    """
    from PIL import Image, ImageDraw

    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(n):
        colour, shape = list(_COLOURS)[i % 4], _SHAPES[(i // 4 + i) % 4]
        if i % 6 == 5:
            turns = [f"Name the colour number {i}.", f"It is {colour}."]
            records.append({"id": f"tiny-{i}", "task": "Chat", "conversations": _conversation(turns)})
            continue
        picture = Image.new("RGB", (40 + 7 * (i % 5), 40 + 9 * (i % 3)), (250, 250, 250))
        draw = ImageDraw.Draw(picture)
        box = (4 + i % 9, 5, 26 + i % 9, 30)
        (draw.rectangle if shape == "square" else draw.ellipse)(box, fill=_COLOURS[colour])
        picture.save(images / f"{i:03d}.png")
        task = TASKS[i % 3]
        turns = {
            "SceneCaption": ["<image>\nDescribe the scene.", f"There is a {colour} {shape} on white ground."],
            "ShapeVQA": [
                f"<image>\nWhat colour is the {shape}?\nAnswer the question using a single word or phrase.",
                colour,
                "And its shape?",
                shape,
            ],
            "Grounding": [
                f"<image>\nProvide the bounding box coordinate of the region: {colour} {shape}.",
                "[{:.2f}, {:.2f}, {:.2f}, {:.2f}]".format(*(v / 68 for v in box)),
            ],
        }[task]
        record = {"id": f"tiny-{i}", "image": f"{i:03d}.png", "task": task, "conversations": _conversation(turns)}
        records.append(record)
    file = folder / name
    file.write_text(json.dumps(records, indent=1))
    return file


def make_tiny_training(folder: Path, n: int) -> Path:
    """Write a tiny checkpoint, `n` records as data.json and their tasks as tiny.yaml; return `folder`."""
    make_tiny_checkpoint(folder)
    make_tiny_dataset(folder, n, "data.json")
    tasks = [{"name": name, "weight": 1.0, "files": {"train": "data.json"}} for name in TASKS]
    content = {"name": "tiny", "data_folder": ".", "image_folder": ".", "tasks": tasks}
    (folder / "tiny.yaml").write_text(json.dumps(content))  # JSON is YAML
    return folder


def training_words(place: Path, output: Path, *flags: object) -> list[str]:
    """The flags of a training on the records in `place`; of a flag that is given twice the last counts."""
    given = {
        "model_name_or_path": place / "llama",
        "version": "v1",
        "data_path": place / "data.json",
        "image_folder": place / "images",
        "vision_tower": place / "vision_tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "output_dir": output,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return [str(word) for name, value in given.items() for word in (f"--{name}", value)] + [*map(str, flags)]


def weighted_words(place: Path, output: Path, *flags: object) -> list[str]:
    """The same with what `make_tiny_training` wrote besides: the tasks, which are weighted, and the projector."""
    adapter = ("--pretrain_mm_mlp_adapter", place / "mm_projector.bin")
    tasks = ("--benchmark", place / "tiny.yaml", "--visatb_weights", "0.5", "1.5", "1.2", "1.0")
    return training_words(place, output, *adapter, *tasks, *flags)


def _conversation(turns: list[str]) -> list[dict]:
    return [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]


def _sentences() -> list[str]:
    colours, shapes = list(_COLOURS), _SHAPES
    lines = [
        "A chat between a curious user and an artificial intelligence assistant.",
        "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT:",
        "Answer the question using a single word or phrase. Describe the scene. And its shape?",
        "Provide the bounding box coordinate of the region this sentence describes: [0.12, 0.34, 0.56, 0.78]",
    ]
    for colour in colours:
        for shape in shapes:
            lines += [
                f"There is a {colour} {shape} on white ground.",
                f"What colour is the {shape}? It is {colour}.",
                f"Name the colour number 0123456789. Where is the {colour} {shape}?",
            ]
    return lines * 4


def _make_llama(folder: Path, seed: int):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    make_tiny_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(LlamaTokenizer.from_pretrained(folder)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    _spread(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder, safe_serialization=True)
    return model


def _make_vision_tower(folder: Path):
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
    )
    model = CLIPVisionModel(config)
    _spread(model, torch.Generator().manual_seed(77))
    model.save_pretrained(folder, safe_serialization=True)
    size = {"height": 56, "width": 56}
    CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=size).save_pretrained(folder)
    return model


def _spread(model, draw) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if norm else 0.2 * noise)


def make_tiny_lora(folder: Path, checkpoint: Path, seed: int = 5) -> Path:
    """Write a LoRA folder on the tiny Llama, as LLaVA saves one (adapter_model.bin, rank 4); return it.

    Args:
        folder: where to write.
        checkpoint: what `make_tiny_checkpoint` returned.
        seed: of the adapter's and the projector's weights.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    widths = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (64, 64), "mlp.down_proj": (128, 64)}
    adapter = {}
    for layer in range(2):
        for name, (width_in, width_out) in widths.items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            adapter[f"{place}.lora_A.weight"] = 0.2 * torch.randn(4, width_in, generator=draw)
            adapter[f"{place}.lora_B.weight"] = 0.2 * torch.randn(width_out, 4, generator=draw)
    torch.save(adapter, folder / "adapter_model.bin")
    projector = torch.load(checkpoint / "mm_projector.bin", weights_only=True)
    others = {
        f"base_model.model.{key}": value + 0.1 * torch.randn(value.shape, generator=draw)
        for key, value in projector.items()
    }
    torch.save(others, folder / "non_lora_trainables.bin")
    (folder / "config.json").write_text((checkpoint / "llava-tiny" / "config.json").read_text())
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": "tiny/llama",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": 4,
        "revision": None,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
    return folder
