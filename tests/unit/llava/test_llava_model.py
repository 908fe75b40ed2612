"""Images in the places of their tokens: alone, in batches, in training and in generation."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.model import LlavaConfig, LlavaLlamaForCausalLM
from llava.model.llava_arch import load_projector
from llava.model.multimodal_encoder.clip_encoder import CLIPVisionTower
from llava.model.multimodal_projector.builder import build_vision_projector
from llava.model.weights import read_state_dict
from llava.train.arguments import ModelArguments
from transformers_patch import EqualWeighting
from visatb.errors import InputError

IMAGE = IMAGE_TOKEN_INDEX


def pixels(n, seed=0):
    return torch.randn(n, 3, 56, 56, generator=torch.Generator().manual_seed(seed))


def padded(rows, left=False):
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
    for n, row in enumerate(rows):
        at = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[n, at], mask[n, at] = torch.tensor(row), 1
    return ids, mask


ROWS = [[1, 20, IMAGE, 30, 31], [1, 40, 41], [1, IMAGE, 50, IMAGE, 51, 52, 53], [1, IMAGE, 60]]
IMAGES_OF_ROW = [[0], [], [1, 2], [3]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_batch_give_the_logits_they_give_alone(model, side):
    images = pixels(4)
    model.config.tokenizer_padding_side = side
    ids, mask = padded(ROWS, left=side == "left")
    with torch.no_grad():
        _, _, merged_mask, _, _, _ = model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, images)
        positions = (merged_mask.cumsum(1) - 1).clamp(min=0)
        logits = model(ids, attention_mask=mask, position_ids=mask.cumsum(1) - 1, images=images).logits
        assert logits.shape[:2] == positions.shape
        for n, (row, own) in enumerate(zip(ROWS, IMAGES_OF_ROW, strict=True)):
            alone = model(torch.tensor([row]), images=images[own] if own else None).logits[0]
            torch.testing.assert_close(logits[n][merged_mask[n].bool()], alone, atol=1e-4, rtol=0)


def test_merging_equals_a_loop_over_tokens(model):
    """A plain-Python reference for labels, mask, positions and embeddings."""
    images = pixels(4)
    ids, mask = padded(ROWS)
    labels = torch.where(mask.bool(), ids.clamp(min=0) + 100, IGNORE_INDEX)
    _, positions, merged_mask, _, embeds, merged_labels = model.prepare_inputs_labels_for_multimodal(
        ids, torch.zeros_like(ids), mask.bool(), None, labels, images
    )
    features = model.encode_images(images)
    table = model.get_input_embeddings().weight
    taken = 0
    for n, row in enumerate(ROWS):
        vectors, expected = [], []
        for token in row:
            if token == IMAGE:
                vectors += list(features[taken])
                expected += [IGNORE_INDEX] * 16
                taken += 1
            else:
                vectors.append(table[token])
                expected.append(token + 100)
        length = len(vectors)
        torch.testing.assert_close(embeds[n, :length], torch.stack(vectors))
        assert (embeds[n, length:] == 0).all() and merged_mask[n].sum() == length and merged_mask[n, :length].all()
        assert merged_labels[n].tolist() == expected + [IGNORE_INDEX] * (embeds.shape[1] - length)
        assert positions[n, :length].tolist() == list(range(length))


def test_dummy_images_of_text_only_rows_are_accepted_and_ignored(model):
    ids, mask = padded(ROWS)
    images = pixels(4)
    with_dummy = torch.stack([images[0], torch.full((3, 56, 56), 1e4), *images[1:]])
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, images=images).logits
        assert torch.equal(model(ids, attention_mask=mask, images=with_dummy).logits, expected)
        assert torch.equal(model(ids, attention_mask=mask, images=[*images]).logits, expected)
        text, text_mask = padded([[1, 40, 41], [1, 42]])
        plain = model(text, attention_mask=text_mask).logits
        assert torch.equal(model(text, attention_mask=text_mask, images=pixels(2)).logits, plain)


def test_images_that_do_not_match_their_tokens_are_refused(model):
    ids, mask = padded(ROWS)
    for images in (None, pixels(3), pixels(6)):
        with pytest.raises(ValueError, match="image"):
            model(ids, attention_mask=mask, images=images)


def test_rows_are_cut_at_the_limit_of_the_config_even_inside_an_image(model):
    model.config.tokenizer_model_max_length = 10
    ids, mask = padded(ROWS)
    labels = torch.where(mask.bool(), ids.clamp(min=0), IGNORE_INDEX)
    _, _, merged_mask, _, embeds, merged_labels = model.prepare_inputs_labels_for_multimodal(
        ids, None, mask, None, labels, pixels(4)
    )
    assert embeds.shape[1] == merged_labels.shape[1] == 10 and merged_mask.sum(1).tolist() == [10, 3, 10, 10]
    model.config.tokenizer_model_max_length = int(1e30)  # what a tokenizer without a limit says
    assert model(ids, attention_mask=mask, images=pixels(4)).logits.shape[1] == 37


def generated(model, rows, images, left=True, **settings):
    ids, mask = padded(rows, left)
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | settings
    return model.generate(ids, attention_mask=mask, images=images, **settings)[:, ids.shape[1] :].tolist()


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("beams", [1, 3])
def test_batched_generation_gives_what_single_rows_give(model, left, beams):
    """Rows with none, one and two images: their padding differs before and after the images take their places."""
    images = pixels(4)
    together = generated(model, ROWS, images, left, num_beams=beams)
    for n, own in enumerate(IMAGES_OF_ROW):
        alone = generated(model, [ROWS[n]], images[own] if own else None, num_beams=beams)
        if beams > 1 and n != 2:
            continue  # beam scores are divided by the padded length; only the longest row has none
        assert together[n] == alone[0], n


@pytest.mark.parametrize("beams", [1, 2])
def test_the_cache_changes_nothing(model, beams):
    for row, own in zip(ROWS, IMAGES_OF_ROW, strict=True):
        images = pixels(4)[own] if own else None
        runs = [generated(model, [row], images, num_beams=beams, use_cache=cache) for cache in (True, False)]
        assert runs[0] == runs[1]


def test_generation_is_not_cut_at_the_training_length(model):
    expected = generated(model, ROWS[:1], pixels(1))
    model.config.tokenizer_model_max_length = 8
    assert generated(model, ROWS[:1], pixels(1)) == expected


def test_a_prompt_merged_by_the_caller_generates_the_same(model):
    ids, mask = padded(ROWS, left=True)
    model.config.tokenizer_padding_side = "left"
    _, _, merged_mask, _, embeds, _ = model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, pixels(4))
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = model.generate(ids, inputs_embeds=embeds, attention_mask=merged_mask, **settings)[:, ids.shape[1] :]
    assert found.tolist() == generated(model, ROWS, pixels(4))


def test_a_decoding_loop_may_keep_passing_images_and_the_short_mask(model):
    """LLaVA's contract for one-token steps: the mask is lengthened to what the cache holds."""
    ids, mask = padded(ROWS[:1])
    images = pixels(1)
    with torch.no_grad():
        first = model(ids, attention_mask=mask, images=images, use_cache=True)
        token = first.logits[:, -1:].argmax(-1)
        longer = torch.cat([mask, torch.ones(1, 1, dtype=torch.long)], 1)
        second = model(token, attention_mask=longer, images=images, past_key_values=first.past_key_values)
        whole = model(torch.cat([ids, token], 1), attention_mask=longer, images=images)
    torch.testing.assert_close(second.logits[:, -1], whole.logits[:, -1], atol=1e-4, rtol=0)


def training(model):
    model.train()
    model.requires_grad_(True)
    model.get_vision_tower().requires_grad_(False)
    return model


def loss_of(model, ids, images=None):
    labels = torch.where(ids > 1, ids, IGNORE_INDEX)
    return model(ids, labels=labels, images=images, weighter=EqualWeighting(1)).loss


def test_a_batch_without_images_still_reaches_every_trained_parameter(model):
    """DDP and ZeRO-3 wait for parameters that one rank leaves out."""
    ids = torch.tensor([[1, 20, 21, 22]])
    model.eval()
    plain = loss_of(model, ids)
    loss = loss_of(training(model), ids)
    assert float(loss.detach()) == float(plain.detach())
    loss.backward()
    for parameter in model.model.mm_projector.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    model.zero_grad()
    model.model.mm_projector.requires_grad_(False)
    loss_of(model, ids).backward()
    assert all(parameter.grad is None for parameter in model.model.mm_projector.parameters())


def test_modules_run_in_the_same_order_with_and_without_images(model):
    """Under ZeRO-3 every call gathers weights from all ranks: another order on one rank is a deadlock."""
    orders = []
    names = {module: name for name, module in model.named_modules() if not list(module.children())}
    for module in names:
        module.register_forward_pre_hook(lambda module, _: orders[-1].append(names[module]))
    training(model)
    for row, images in ((ROWS[0], pixels(1)), (ROWS[1], None)):
        orders.append([])
        loss_of(model, torch.tensor([row]), images).backward()
    assert orders[0] == orders[1]


def test_a_batch_without_images_adds_an_exact_zero_in_float16_too(model):
    training(model)
    with torch.no_grad():
        model.model.mm_projector[-1].bias.fill_(60000)
    model.model.mm_projector.half()
    assert float(model._vision_zero().detach()) == 0


def test_the_tower_stays_frozen_and_in_eval_mode(model):
    training(model)
    loss_of(model, torch.tensor([ROWS[0]]), pixels(1)).backward()
    tower = model.get_vision_tower()
    assert not any(module.training for module in tower.modules()) and model.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in tower.parameters())
    assert all(parameter.grad is not None for parameter in model.model.mm_projector.parameters())


@pytest.mark.parametrize("layer", [-1, -2, -3, -4, 0, 1, 3])
@pytest.mark.parametrize("feature", ["patch", "cls_patch"])
def test_the_selected_hidden_state_is_clips_own(tiny_checkpoint, layer, feature):
    args = SimpleNamespace(mm_vision_select_layer=layer, mm_vision_select_feature=feature)
    tower = CLIPVisionTower(str(tiny_checkpoint / "vision_tower"), args)
    images = pixels(2)
    with torch.no_grad():
        expected = tower.vision_tower(images, output_hidden_states=True).hidden_states[layer]
    expected = expected[:, 1:] if feature == "patch" else expected
    torch.testing.assert_close(tower(images), expected)
    assert tower.num_patches == expected.shape[1] and tower.hidden_size == expected.shape[2]
    assert tower(images.bfloat16()).dtype == torch.bfloat16
    assert [row.shape for row in tower([images[0]])] == [(1, *expected.shape[1:])]


def test_a_tower_that_cannot_be_used_is_refused_in_one_line(tiny_checkpoint, tmp_path):
    args = SimpleNamespace(mm_vision_select_layer=-2, mm_vision_select_feature="patch")
    path = str(tiny_checkpoint / "vision_tower")
    for wrong in ({"mm_vision_select_layer": 4}, {"mm_vision_select_layer": -5}, {"mm_vision_select_feature": "all"}):
        with pytest.raises(InputError, match="mm_vision_select"):
            CLIPVisionTower(path, SimpleNamespace(**(vars(args) | wrong)))
    with pytest.raises(InputError, match="vision tower"):
        CLIPVisionTower(str(tmp_path), args)
    delayed = CLIPVisionTower(path, args, delay_load=True)
    assert delayed.num_patches == 16 and not delayed.is_loaded and not list(delayed.parameters())


@pytest.mark.parametrize("kind, layers", [("linear", 1), ("mlp1x_gelu", 1), ("mlp2x_gelu", 2), ("mlp3x_gelu", 3)])
def test_projector_types(kind, layers):
    config = SimpleNamespace(mm_projector_type=kind, mm_hidden_size=6, hidden_size=8)
    projector = build_vision_projector(config)
    assert projector(torch.zeros(2, 5, 6)).shape == (2, 5, 8)
    assert sum(isinstance(module, torch.nn.Linear) for module in projector.modules()) == layers


def test_other_projector_types():
    config = SimpleNamespace(mm_projector_type="identity", mm_hidden_size=8, hidden_size=8)
    features = torch.randn(2, 5, 8)
    assert build_vision_projector(config)(features) is features
    for wrong in ("mlp0x_gelu", "mlp2x_relu", "mlp2x_gelu_", "conv"):
        with pytest.raises(InputError, match="mm_projector_type"):
            build_vision_projector(SimpleNamespace(mm_projector_type=wrong, mm_hidden_size=8, hidden_size=8))


def vision_arguments(tiny_checkpoint, **changes):
    return SimpleNamespace(
        **{
            "vision_tower": str(tiny_checkpoint / "vision_tower"),
            "mm_vision_select_layer": -2,
            "mm_vision_select_feature": "patch",
            "pretrain_mm_mlp_adapter": str(tiny_checkpoint / "mm_projector.bin"),
            "mm_projector_type": "mlp2x_gelu",
            "mm_use_im_patch_token": False,
            "mm_use_im_start_end": False,
            "tune_mm_mlp_adapter": False,
        }
        | changes
    )


@pytest.fixture
def base(tiny_checkpoint):
    """The plain Llama as training opens it."""
    config = LlavaConfig.from_pretrained(tiny_checkpoint / "llama")
    return LlavaLlamaForCausalLM.from_pretrained(tiny_checkpoint / "llama", config=config)


def test_a_base_model_with_tower_and_projector_is_the_whole_checkpoint(base, model, tiny_checkpoint):
    base.get_model().initialize_vision_modules(vision_arguments(tiny_checkpoint))
    assert base.state_dict().keys() == model.state_dict().keys()
    for key in ("mm_vision_tower", "use_mm_proj", "mm_projector_type", "mm_hidden_size", "mm_vision_select_layer"):
        assert getattr(base.config, key) == getattr(model.config, key)
    with torch.no_grad():
        ids = torch.tensor([ROWS[0]])
        torch.testing.assert_close(base.eval()(ids, images=pixels(1)).logits, model(ids, images=pixels(1)).logits)


def test_arguments_that_are_left_out_are_llavas_defaults(base, tiny_checkpoint):
    base.get_model().initialize_vision_modules(ModelArguments(vision_tower=str(tiny_checkpoint / "vision_tower")))
    chosen = base.config.mm_vision_select_layer, base.config.mm_vision_select_feature, base.config.mm_projector_type
    assert chosen == (-1, "patch", "linear")


def test_a_projector_file_that_does_not_fit_is_refused(base, tiny_checkpoint, tmp_path):
    with pytest.raises(InputError, match="mm_projector_type"):
        base.get_model().initialize_vision_modules(vision_arguments(tiny_checkpoint, mm_projector_type="linear"))
    torch.save({"model.embed_tokens.weight": torch.zeros(2)}, tmp_path / "other.bin")
    with pytest.raises(InputError, match="no projector weight"):
        load_projector(build_vision_projector(base.config), str(tmp_path / "other.bin"))
    torch.save({"model.mm_projector.weight": SimpleNamespace()}, tmp_path / "code.bin")
    with pytest.raises(InputError, match="more than tensors"):
        load_projector(build_vision_projector(base.config), str(tmp_path / "code.bin"))


def test_start_and_end_tokens_get_embeddings(base, tokenizer, tiny_checkpoint):
    args = vision_arguments(tiny_checkpoint, mm_use_im_start_end=True, pretrain_mm_mlp_adapter=None)
    base.get_model().initialize_vision_modules(args)
    before = base.get_input_embeddings().weight.detach().clone()
    args.tune_mm_mlp_adapter = True
    base.requires_grad_(False)
    base.initialize_vision_tokenizer(args, tokenizer)
    weight = base.get_input_embeddings().weight
    assert len(tokenizer) == len(weight) == len(before) + 2 == base.config.vocab_size
    torch.testing.assert_close(weight[-2:].detach(), before.mean(0).expand(2, -1))
    assert weight.requires_grad and not base.get_output_embeddings().weight.requires_grad
    # Adding them again changes nothing.
    base.initialize_vision_tokenizer(args, tokenizer)
    assert len(base.get_input_embeddings().weight) == len(before) + 2


def test_start_and_end_tokens_are_read_from_stage_one(base, tokenizer, tiny_checkpoint, tmp_path):
    stored = torch.load(tiny_checkpoint / "mm_projector.bin", weights_only=True)
    stored["model.embed_tokens.weight"] = torch.arange(2.0)[:, None].expand(2, 64).clone()
    torch.save(stored, tmp_path / "mm_projector.bin")
    args = vision_arguments(tiny_checkpoint, mm_use_im_start_end=True)
    args.pretrain_mm_mlp_adapter = str(tmp_path / "mm_projector.bin")
    base.get_model().initialize_vision_modules(args)
    base.initialize_vision_tokenizer(args, tokenizer)
    assert base.get_input_embeddings().weight[-2:, 0].tolist() == [0, 1]


def test_stage_one_without_the_start_and_end_embeddings_is_refused(base, tokenizer, tiny_checkpoint):
    args = vision_arguments(tiny_checkpoint, mm_use_im_start_end=True)
    base.get_model().initialize_vision_modules(args)
    with pytest.raises(InputError, match="mm_use_im_start_end"):
        base.initialize_vision_tokenizer(args, tokenizer)


def test_auto_classes_know_llava(tiny_checkpoint):
    path = tiny_checkpoint / "llava-tiny"
    assert isinstance(AutoConfig.from_pretrained(path), LlavaConfig)
    assert isinstance(AutoModelForCausalLM.from_pretrained(path), LlavaLlamaForCausalLM)


def test_embeddings_keep_their_dtype(model):
    model.bfloat16()
    ids, mask = padded(ROWS)
    embeds = model.prepare_inputs_labels_for_multimodal(ids, None, mask, None, None, pixels(4))[4]
    assert embeds.dtype == torch.bfloat16


def test_loading_a_tower_draws_no_more_than_its_own_model_does(tiny_checkpoint):
    """What is initialised after it, a new projector, follows from the seed alone."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder = str(tiny_checkpoint / "vision_tower")
    torch.manual_seed(0)
    config = CLIPVisionConfig.from_pretrained(folder)
    CLIPVisionModel.from_pretrained(None, config=config, state_dict=read_state_dict(folder))
    expected = torch.rand(1)
    torch.manual_seed(0)
    CLIPVisionTower(folder, SimpleNamespace(mm_vision_select_layer=-2))
    assert torch.equal(torch.rand(1), expected)
