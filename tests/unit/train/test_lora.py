"""LoRA: what is adapted and trained, that task weights reach the loss under PEFT, what is saved and started from."""

import json
import shutil
from collections import Counter

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import make_tiny_checkpoint, make_tiny_dataset

from llava.model.adapter import fill_adapter, read_adapter, wrap
from llava.model.builder import load_pretrained_model
from llava.train import lora
from llava.train.arguments import parse_arguments
from llava.train.assembly import build_model, build_trainer, load_data, make_weighter
from llava.train.llava_trainer import LLaVATrainer
from llava.train.saving import check_saved, save_final_model
from transformers_patch import EqualWeighting, build_weighter
from transformers_patch.strategies import STRATEGIES
from visatb.errors import InputError

TASKS = ["SceneCaption", "ShapeVQA", "Grounding", "Chat"]
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = make_tiny_checkpoint(tmp_path_factory.mktemp("lora"))
    make_tiny_dataset(folder, 24, "data.json")
    return folder


def arguments(place, *flags, base="llama", output="o"):
    given = ["--model_name_or_path", place / base, "--version", "v1", "--data_path", place / "data.json"]
    given += ["--image_folder", place / "images", "--vision_tower", place / "vision_tower", "--output_dir", output]
    given += ["--mm_projector_type", "mlp2x_gelu", "--mm_vision_select_layer", "-2", "--mm_use_im_patch_token", "False"]
    given += ["--no_cuda", "True", "--report_to", "none", "--lora_enable", "True", "--lora_r", "4"]
    return parse_arguments([*map(str, given), "--disable_tqdm", "True", *map(str, flags)])


def build(place, *flags, **changes):
    return build_model(*arguments(place, *flags, **changes))[0]


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def spread(model, seed=0) -> None:
    """Random adapters: fresh ones change nothing."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))


def batch() -> dict:
    draw = torch.Generator().manual_seed(5)
    input_ids = torch.randint(3, 380, (3, 12), generator=draw)
    labels = torch.where(torch.arange(12) < torch.tensor([[4], [6], [2]]), -100, input_ids)
    return {"input_ids": input_ids, "labels": labels, "attention_mask": torch.ones_like(input_ids)}


def train(place, weighter, output, *flags):
    groups = arguments(place, "--max_steps", "3", "--save_strategy", "no", *flags, output=output)
    _, data_args, args = groups
    built = build_model(*groups)
    data_args.benchmark = "tiny"  # keeps the records' own tasks
    records = load_data(data_args, TASKS)
    trainer = build_trainer(built, records, TASKS, weighter, data_args, args)
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    trainer.train()
    return trainer, before


def test_only_the_language_model_gets_adapters(place):
    model = build(place)
    adapted = {name.split(".lora_")[0] for name in trained(model) if "lora_" in name}
    assert len(adapted) == 2 * len(LINEAR) and all(".model.layers." in name for name in adapted)
    assert {name.rpartition(".")[2] for name in adapted} == LINEAR
    assert not any("vision_tower" in name or "lm_head" in name for name in adapted)
    assert model.peft_config["default"].target_modules == LINEAR


@pytest.mark.parametrize("base", ["llama", "llava-tiny"])
@pytest.mark.parametrize("freeze", [False, True])
def test_the_projector_is_trained_beside_the_adapters_unless_frozen(place, base, freeze):
    names = {n for n in trained(build(place, "--freeze_mm_mlp_adapter", freeze, base=base)) if "lora_" not in n}
    parts = ("0.weight", "0.bias", "2.weight", "2.bias")
    assert names == (set() if freeze else {f"base_model.model.model.mm_projector.{part}" for part in parts})


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_lora_bias_does_not_thaw_the_vision_tower(place, bias):
    assert not any("vision_tower" in name for name in trained(build(place, "--lora_bias", bias)))


def test_adapters_start_from_the_seed_alone(place):
    torch.manual_seed(1)
    first = build(place, "--seed", "3").state_dict()
    torch.manual_seed(2)
    second = build(place, "--seed", "3").state_dict()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first[name], build(place, "--seed", "4").state_dict()[name])


def test_the_weighted_loss_of_a_lora_model_is_the_closed_form(place):
    model = build(place).train()
    model.get_base_model().model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    spread(model)
    given = batch()
    task_ids = torch.tensor([0, 1, 2])
    logits = model(**{k: given[k] for k in ("input_ids", "attention_mask")}).logits[:, :-1]
    labels = given["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    found = []
    for weights in ([1.0, 1.0, 1.0], [0.5, 2.0, 3.0]):
        weight_BS = torch.tensor(weights)[task_ids][:, None] * (labels != -100)
        expected = (weight_BS * losses).sum() / weight_BS.sum()
        got = model(**given, task_ids=task_ids, weighter=EqualWeighting(3, weights)).loss.detach()
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        found.append(float(got))
    assert abs(found[0] - found[1]) > 1e-2


@pytest.mark.parametrize("method", sorted(STRATEGIES))
def test_every_weighting_strategy_trains_under_peft(place, method, tmp_path):
    weighter = build_weighter(method, len(TASKS))
    flags = ("--weight_method", method, "--per_device_train_batch_size", "8", "--learning_rate", "1e-2")
    trainer, before = train(place, weighter, tmp_path, *flags)
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == trained(trainer.model)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_the_frozen_base_is_half_precision_adapters_are_float32(place):
    for base in ("llama", "llava-tiny"):
        model = build(place, "--bf16", "True", base=base)
        dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
        assert {dtypes[name] for name in trained(model)} == {torch.float32}
        assert {dtype for name, dtype in dtypes.items() if name not in trained(model)} == {torch.bfloat16}


def test_a_full_finetune_is_loaded_as_before():
    _, _, args = parse_arguments(["--model_name_or_path", "m", "--data_path", "d", "--output_dir", "o"])
    assert lora.loading_arguments(args) == {}


def save(model, folder, **options):
    lora.save(model, lora.saved_state(model, False), folder, options.get("safe", True))
    return folder


@pytest.mark.parametrize("safe", [True, False])
def test_a_lora_folder_has_llavas_and_pefts_names(place, tmp_path, safe):
    model = build(place)
    spread(model)
    save(model, tmp_path, safe=safe)
    files = {"config.json", "adapter_config.json", "non_lora_trainables.bin"}
    assert {p.name for p in tmp_path.iterdir()} == files | {f"adapter_model.{'safetensors' if safe else 'bin'}"}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(place / "llama") and config["inference_mode"]
    assert (config["task_type"], config["r"], set(config["target_modules"])) == ("CAUSAL_LM", 4, LINEAR)
    stored = read_adapter(tmp_path)
    assert "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight" in stored
    others = torch.load(tmp_path / "non_lora_trainables.bin", weights_only=True)
    assert "base_model.model.model.mm_projector.0.weight" in others
    other = PeftModel.from_pretrained(build_base(place), str(tmp_path))  # PEFT's own reader
    given = batch()
    torch.testing.assert_close(other(**given).loss, model.eval()(**given).loss)


def build_base(place):
    model = build(place)
    return model.unload()


def test_a_frozen_projector_is_saved_too(place, tmp_path):
    save(build(place, "--freeze_mm_mlp_adapter", "True"), tmp_path)
    assert len(torch.load(tmp_path / "non_lora_trainables.bin", weights_only=True)) == 4


def test_a_lora_folder_with_an_empty_or_missing_tensor_is_noticed(place, tmp_path):
    model = build(place)
    save(model, tmp_path)
    check_saved(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    first, second = list(tensors)[:2]
    tensors[first] = torch.empty(0)  # what ZeRO-3 leaves of a parameter that was not gathered
    del tensors[second]
    save_file(tensors, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeError, match="2 parameters are missing or of another shape or dtype: model.layers.0"):
        check_saved(model, tmp_path)
    with pytest.raises(InputError, match="lacks model.layers.0"):
        lora.restore(model, tmp_path, False)
    (tmp_path / "non_lora_trainables.bin").unlink()
    with pytest.raises(RuntimeError, match="6 parameters .*mm_projector"):
        check_saved(model, tmp_path)
    with pytest.raises(RuntimeError, match="embed_tokens"):
        check_saved(model, tmp_path, vocabulary_grew=True)


def test_training_starts_from_an_earlier_adapter_and_its_projector(place, tmp_path):
    earlier = build(place)
    spread(earlier)
    torch.nn.init.constant_(earlier.get_model().mm_projector[0].bias, 0.25)
    save(earlier, tmp_path)
    new = build(place, "--lora_weight_path", tmp_path)
    for name, value in earlier.named_parameters():
        assert torch.equal(value, dict(new.named_parameters())[name]), name


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--lora_r", "8"), "r is 4, --lora_r is 8"),
        (("--lora_alpha", "8"), "lora_alpha is 16, --lora_alpha is 8"),
        (("--mm_projector_type", "linear"), "no parameter of name and shape model.mm_projector.0.weight"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(place, tmp_path, flags, message):
    save(build(place), tmp_path)
    with pytest.raises(InputError, match=message):
        build(place, "--lora_weight_path", tmp_path, *flags)


@pytest.mark.parametrize(
    "content, message",
    [
        ("[1]", "JSON object"),
        ({"use_rslora": True}, "use_rslora is set"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern is set"),
        ({"peft_type": "IA3"}, "must be LORA"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"target_modules": ["q_proj", "v_proj"]}, "target_modules is q_proj, v_proj; trained here are .*up_proj"),
    ],
)
def test_an_adapter_of_another_kind_is_not_trained_further_as_plain_lora(place, tmp_path, content, message):
    save(build(place), tmp_path)
    file = tmp_path / "adapter_config.json"
    text = content if isinstance(content, str) else json.dumps(json.loads(file.read_text()) | content)
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        build(place, "--lora_weight_path", tmp_path)


def test_a_folder_without_an_adapter_is_nothing_to_start_from(place, tmp_path):
    with pytest.raises(InputError, match="no adapter_config.json"):
        build(place, "--lora_weight_path", tmp_path)


def test_embeddings_are_saved_when_tokens_were_added(place, tmp_path, capsys):
    groups = arguments(place, "--mm_use_im_start_end", "True", output=tmp_path)
    built = build_model(*groups)
    model = built.model
    assert "The vocabulary grew to 392" in capsys.readouterr().out
    assert built.vocabulary_grew
    names = {name.rpartition(".model.")[2] for name in lora.saved_parameters(model, True) if "lora_" not in name}
    assert {"embed_tokens.weight", "lm_head.weight"} <= names
    assert not any("embed_tokens" in name for name in trained(model))  # as LLaVA: with tune_mm_mlp_adapter only
    base = build_model(*arguments(place))[0]
    assert not any("embed_tokens" in name for name in lora.saved_parameters(base, False))


def test_checkpointing_reaches_adapters_on_text_after_adding_tokens(place):
    flags = ("--mm_use_im_start_end", "True", "--gradient_checkpointing", "True", "--freeze_mm_mlp_adapter", "True")
    model = build(place, *flags).train()
    model.gradient_checkpointing_enable()
    model(**batch(), task_ids=torch.zeros(3, dtype=torch.long), weighter=EqualWeighting(1)).loss.backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_B" in n)


def test_the_projector_has_its_own_learning_rate_among_the_adapters(place, tmp_path):
    flags = ("--mm_projector_lr", "1e-4", "--learning_rate", "1e-3", "--weight_decay", "0.1")
    trainer, _ = train(place, EqualWeighting(len(TASKS)), tmp_path, *flags)
    groups = {(g["initial_lr"], g["weight_decay"]): len(g["params"]) for g in trainer.optimizer.param_groups}
    assert groups == {(1e-3, 0.1): 28, (1e-4, 0.1): 2, (1e-4, 0.0): 2}


def test_wrapping_for_loading_does_not_adapt_the_tower(place, tmp_path):
    model = build(place)
    spread(model)
    save(model, tmp_path)
    from peft import PeftConfig

    other = wrap(build_base(place), PeftConfig.from_pretrained(str(tmp_path)))
    fill_adapter(other, str(tmp_path))
    torch.testing.assert_close(other.eval()(**batch()).loss, model.eval()(**batch()).loss)


def test_the_final_folder_of_a_training_is_a_lora_folder(place, tmp_path):
    trainer, _ = train(place, EqualWeighting(len(TASKS)), tmp_path)
    save_final_model(trainer)
    names = {p.name for p in tmp_path.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin", "tokenizer.model"}
    assert not {name for name in names if name.startswith(("model", "training_args"))}


@pytest.mark.parametrize("flag, signs", [("--group_by_length", {1}), ("--group_by_modality_length", {1, -1})])
def test_batches_by_length_read_no_sample(place, tmp_path, monkeypatch, capsys, flag, signs):
    groups = arguments(place, flag, "True", output=tmp_path)
    _, data_args, args = groups
    built = build_model(*groups)
    records = load_data(data_args, ["all"])
    weighter = EqualWeighting(1)
    trainer = build_trainer(built, records, ["all"], weighter, data_args, args)
    assert ("--group_by_length has no effect" in capsys.readouterr().err) == (flag == "--group_by_length")  # 1 batch
    monkeypatch.setattr(type(trainer.train_dataset), "__getitem__", None)
    assert isinstance(trainer, LLaVATrainer)
    sampler = trainer._get_train_sampler()
    assert {1 if length > 0 else -1 for length in sampler.lengths} == signs
    assert sorted(trainer.epoch_order(0)) == list(range(24)) and trainer.epoch_order(0) != trainer.epoch_order(1)


def test_sampled_epochs_have_the_tasks_counts_whatever_the_split(place, tmp_path, capsys):
    orders = []
    for per_device, accumulation in (("4", "1"), ("1", "2")):
        flags = ("--task_sampling", "weights", "--visatb_weights", "3", "1", "1", "1", "--max_steps", "1")
        flags += ("--per_device_train_batch_size", per_device, "--gradient_accumulation_steps", accumulation)
        groups = arguments(place, *flags, output=tmp_path)
        _, data_args, args = groups
        data_args.benchmark = "tiny"  # keeps the records' own tasks
        weighter = make_weighter(args, TASKS)
        assert weighter.weight_K.tolist() == [1.0] * 4
        built = build_model(*groups)
        records = load_data(data_args, TASKS)
        trainer = build_trainer(built, records, TASKS, weighter, data_args, args)
        orders.append([trainer.epoch_order(epoch) for epoch in (0, 1)])
    assert "8 records, 14 drawn per epoch" in capsys.readouterr().out  # 24 * 24 / 40 of 8, 8, 4, 4 records
    assert orders[0] == orders[1] and orders[0][0] != orders[0][1]
    assert [Counter(trainer.train_dataset.task_of_record[n] for n in order)[0] for order in orders[0]] == [14, 14]


def test_a_projector_type_that_is_not_the_checkpoints_is_refused(place):
    with pytest.raises(InputError, match="mm_projector_type must be mlp2x_gelu, .*llava-tiny, got linear"):
        build(place, "--mm_projector_type", "linear", base="llava-tiny")


def test_a_run_without_a_vision_tower_saves_its_model(place, tmp_path):
    shutil.rmtree(tmp_path)
    groups = arguments(place, output=tmp_path)
    groups[0].vision_tower = None
    built = build_model(*groups)
    model = built.model
    assert not getattr(model.config, "tune_mm_mlp_adapter", False)
    save(model, tmp_path)
    assert torch.load(tmp_path / "non_lora_trainables.bin", weights_only=True) == {}


@pytest.mark.parametrize("mode", ["--lora_enable", "--tune_mm_mlp_adapter"])
def test_a_saved_folder_keeps_the_ids_of_the_tokens_that_training_added(place, tmp_path, mode):
    other = ("--lora_enable", "False") if mode != "--lora_enable" else ()
    tokens = ("--version", "v0", "--mm_use_im_start_end", "True")
    trainer, _ = train(place, EqualWeighting(len(TASKS)), tmp_path, *other, *tokens, mode, "True")
    save_final_model(trainer)
    tokenizer, model, _, _ = load_pretrained_model(str(tmp_path), str(place / "llama"), "x", device="cpu")
    added = ("[PAD]", "<im_start>", "<im_end>")  # a base's own tokenizer would not know [PAD], and shift the others
    assert [tokenizer.convert_tokens_to_ids(token) for token in added] == [390, 391, 392]
    assert len(model.get_input_embeddings().weight) == 393
