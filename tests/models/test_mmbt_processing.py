"""The processors of an image and the patient, and the pipeline that needs no ham_hf."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from transformers import pipeline

from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.models.build import IMAGENET_MEAN, IMAGENET_STD, build_processor
from ham_hf.models.mmbt.pipeline_mmbt import ImagePatientPipeline
from ham_hf.models.multimodal import copy_pipeline
from tests.helpers.patient_models import KINDS, PATIENTS, logits, photos, save


def test_codes_are_age_sex_and_the_place_of_the_site_in_the_alphabet(patient_model):
    _, processor = patient_model("codes")
    encoded = processor.encode_patients([45.0, None], ["female", None], ["lower extremity", "unknown"])
    # back 0, face 1, lower extremity 2, unknown 3
    assert encoded["input_ids"].tolist() == [[45, 1, 2], [121, 2, 3]]
    assert encoded["attention_mask"].tolist() == [[1, 1, 1]] * 2


def test_a_sentence_reads_as_the_study_wrote_it(patient_model):
    _, processor = patient_model("sentence")
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
def test_invalid_patient_values_are_named(kind, patient, message, patient_model):
    _, processor = patient_model(kind)
    with pytest.raises(ValueError, match=message):
        processor(photos(1), *patient)


def test_lists_of_different_lengths_are_refused(patient_model):
    _, processor = patient_model("fields")
    with pytest.raises(ValueError, match="expected one value for each of the 2 images"):
        processor(photos(2), age=[45])
    with pytest.raises(ValueError, match="expected one value for each of the 2 images"):
        processor(photos(2), age=45)


def test_sites_are_case_insensitive(patient_model):
    _, processor = patient_model("fields")
    assert processor.encode_patients([1], ["Female"], ["Lower Extremity"])["localization"].tolist() == [3]


def test_normalizing_twice_reproduces_the_study(tiny_checkpoint):
    processor = build_processor(
        str(tiny_checkpoint("microsoft/resnet-50")), revision=None, image_size=8, eval_resize=8, normalization="twice"
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


@pytest.mark.parametrize("kind", KINDS)
def test_the_processor_names_what_it_returns_and_passes_arguments_to_the_image_processor(kind, patient_model):
    _, processor = patient_model(kind)
    [photo] = photos(1)
    by_default = processor(photo, 45, "female", "back")
    assert sorted(processor.model_input_names) == sorted(by_default)
    arrays = processor(photo, 45, "female", "back", return_tensors="np")
    for name, tensor in by_default.items():
        assert isinstance(arrays[name], np.ndarray) and arrays[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(arrays[name], tensor.numpy())
    whole = processor(photo, do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False)
    np.testing.assert_array_equal(whole["pixel_values"][0].permute(1, 2, 0), np.asarray(photo))


# The pipeline


def test_the_pipeline_applies_the_requested_function(patient_model):
    model, processor = patient_model("fields")
    pipe = ImagePatientPipeline(model=model, processor=processor)
    [photo] = photos(1)
    case = {"image": photo, "age": 45.0, "sex": "female", "localization": "back"}
    [raw] = logits(model, processor, PATIENTS[:1]).double()
    for name, expected in {"softmax": raw.softmax(dim=0), "sigmoid": raw.sigmoid(), "none": raw}.items():
        scores = {result["label"]: result["score"] for result in pipe(case, function_to_apply=name)}
        assert [scores[label] for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-6)
    assert pipe(case) == pipe(case, function_to_apply="softmax")
    with pytest.raises(ValueError, match="function_to_apply is 'argmax': expected one of softmax, sigmoid, none"):
        pipe(case, function_to_apply="argmax")


@pytest.mark.parametrize("kind", ["sentence", "mlp"])
def test_the_pipeline_in_half_precision_and_in_batches(kind, patient_model, tmp_path):
    model, processor = patient_model(kind)
    save((model, processor), tmp_path)
    copy_pipeline(tmp_path)
    words = {"model": str(tmp_path), "trust_remote_code": True, "device": "cpu"}
    pipe = pipeline("image-classification", dtype=torch.bfloat16, **words)
    assert pipe.model.dtype == torch.bfloat16
    cases = [{"image": photo, "age": age} for photo, age in zip(photos(3), (45, 62.5, None), strict=True)]
    expected = ImagePatientPipeline(model=model, processor=processor)(cases)
    for predicted, of_float32 in zip(pipe(cases, batch_size=2, top_k=3), expected, strict=True):
        scores = {result["label"]: result["score"] for result in of_float32}
        assert len(predicted) == 3
        assert [result["score"] for result in predicted] == pytest.approx(
            [scores[result["label"]] for result in predicted], abs=0.01
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
        by_pipe = {result["label"]: result["score"] for result in pipe(case)}
        [several, [top]] = pipe([case]), pipe(case, top_k=1)
        unknown = {result["label"]: result["score"] for result in pipe(photo)}
        assert {result["label"]: result["score"] for result in several[0]} == by_pipe
        assert top["score"] == max(by_pipe.values())
        try:
            pipe({"image": photo, "site": "back"})
        except ValueError as error:
            found.append([by_model, by_pipe, unknown, str(error)])
    print(json.dumps(found))
"""


def test_predictions_are_the_same_without_ham_hf_installed(patient_model, tmp_path):
    [photo] = photos(1)
    photo.save(tmp_path / "photo.png")
    for kind in KINDS:
        model, processor = patient_model(kind, "pypi:efficientnet-lite0")
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
