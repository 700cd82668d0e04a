"""Broken and hostile model folders: pickles, code, configs that do not fit, labels that cannot be told apart."""

import json
import pickle
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from ham_hf.cli.main import main
from ham_hf.hub.verify.pipeline_check import check_code
from ham_hf.inference.engine import probabilities
from ham_hf.inference.load import load_classifier
from ham_hf.labels import LABELS
from ham_hf.models import safe_loading
from ham_hf.models.build import build_model, build_processor
from ham_hf.models.multimodal import find_text_encoder
from ham_hf.system.errors import InputError
from tests.helpers.fake_runs import change_json
from tests.helpers.tiny_checkpoints import make_tiny_checkpoint, save_classifier
from tests.hostile.cases import ESCAPES, JUNK, broken, cases, changed, ends_well, or_refused, within

pytestmark = pytest.mark.filterwarnings("ignore")
PHOTO = Image.new("RGB", (50, 40), "brown")
NAMES = ("config.json", "preprocessor_config.json", "model.safetensors")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("models") / "vit", LABELS)


@pytest.fixture(scope="module")
def timm_classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "timm"
    checkpoint = str(make_tiny_checkpoint("timm/resnet18.tv_in1k", folder.with_name("pretrained")))
    build_model(checkpoint).save_pretrained(folder)
    processor = {"revision": None, "image_size": 32, "eval_resize": None, "normalization": "imagenet"}
    build_processor(checkpoint, **processor).save_pretrained(folder)
    return folder


@pytest.fixture
def model(classifier, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(classifier, tmp_path / "model"))


def spoil(folder: Path, name: str = "config.json", **values) -> None:
    change_json(folder / name, **values)


def refusal(folder: Path) -> str:
    with within(60), pytest.raises(InputError) as caught:
        load_classifier(str(folder))
    return str(caught.value)


# Whatever the files hold, a model predicts or is refused

CONFIG_JUNK = (*JUNK, "vit", "resnet", "timm_wrapper", "mmbt", "ham_ensemble", 7, 8, 32, 10**6, ["akiec"] * 7)


@st.composite
def spoilt_file(draw, folder: Path) -> tuple[str, bytes]:
    name = draw(st.sampled_from(NAMES))
    content = (folder / name).read_bytes()
    if name == "model.safetensors":
        return name, draw(broken(content, head=draw(st.sampled_from([9, 400, 1 << 30]))))
    if draw(st.integers(0, 3)) == 0:
        return name, draw(broken(content))
    return name, json.dumps(draw(changed(json.loads(content), CONFIG_JUNK))).encode()


@cases(300)
@given(st.data())
def test_a_corrupted_model_predicts_or_is_refused(classifier, timm_classifier, tmp_path_factory, draw):
    source = draw.draw(st.sampled_from([classifier, classifier, timm_classifier]))
    name, content = draw.draw(spoilt_file(source))
    folder = tmp_path_factory.getbasetemp() / "spoilt"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    (folder / name).write_bytes(content)

    def answer() -> np.ndarray:
        return probabilities(load_classifier(str(folder)), [PHOTO])

    row = ends_well(f"models, {name}", answer)
    if row is not None:
        assert row.shape == (1, 7) and row.sum() == pytest.approx(1, abs=1e-6)


@cases(80)
@given(st.data())
def test_a_corrupted_checkpoint_is_loaded_or_refused(classifier, timm_classifier, tmp_path_factory, draw):
    source = draw.draw(st.sampled_from([classifier, timm_classifier]))
    name, content = draw.draw(spoilt_file(source))
    folder = tmp_path_factory.getbasetemp() / "spoilt checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    (folder / name).write_bytes(content)
    shape = {"revision": None, "image_size": 32, "eval_resize": None, "normalization": "checkpoint"}
    ends_well("checkpoints to train from", lambda: build_model(str(folder)))
    or_refused(lambda: build_processor(str(folder), **shape))
    or_refused(lambda: find_text_encoder(str(folder)))


# Pickles


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def write_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Bomb(marker)}))
    with path.open("rb") as file:
        pickle.load(file)
    assert marker.exists(), "the bomb does not work, so this would prove nothing"
    marker.unlink()


def test_a_pickle_is_refused_with_the_command_that_converts_it(model, tmp_path, capsys, monkeypatch):
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    write_pickle(model / "pytorch_model.bin", tmp_path / "owned")
    message = refusal(model)
    PHOTO.save(tmp_path / "photo.png")
    assert main(["predict", str(model), str(tmp_path / "photo.png")]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
    assert "has no model.safetensors, the only supported format" in message
    assert "its weights are in pytorch_model.bin, a pickle" in message
    command = shlex.split(message.splitlines()[-1])
    assert command[:2] == ["python", "-c"]
    with pytest.raises(Exception, match="(?i)weights.only|unpickl"):
        exec(command[2], {})  # even this runs nothing of it
    assert not (tmp_path / "owned").exists()
    torch.save(weights, model / "pytorch_model.bin")
    monkeypatch.chdir(tmp_path)
    exec(command[2], {})
    assert probabilities(load_classifier("model-safetensors"), [PHOTO]).shape == (1, 7)
    shutil.rmtree("model-safetensors")


def test_a_pickle_beside_safetensors_is_not_read(model, tmp_path):
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "model.pkl", "random_states_0.pkl"):
        write_pickle(model / name, tmp_path / "owned")
    answer = probabilities(load_classifier(str(model)), [PHOTO])
    assert answer.shape == (1, 7) and not (tmp_path / "owned").exists()


OTHER_FILES = ("pytorch_model.bin", "../model.safetensors", "/etc/passwd", "sub/model.safetensors", 5, None)


@pytest.mark.parametrize("file", OTHER_FILES)
def test_an_index_may_name_safetensors_of_its_folder_alone(file, model, tmp_path):
    write_pickle(model / "pytorch_model.bin", tmp_path / "owned")
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (model / safe_loading.INDEX).write_text(json.dumps(index))
    assert probabilities(load_classifier(str(model)), [PHOTO]).shape == (1, 7)
    index["weight_map"]["classifier.bias"] = file
    (model / safe_loading.INDEX).write_text(json.dumps(index))
    assert f"names {file!r}: expected files that end in .safetensors, in the same folder" in refusal(model)
    with pytest.raises(InputError, match="expected files that end in .safetensors"):
        build_model(str(model))
    assert not (tmp_path / "owned").exists()


def test_a_config_cannot_name_another_file_of_weights(model, timm_classifier, tmp_path):
    write_pickle(model / "evil.bin", tmp_path / "owned")
    spoil(model, transformers_weights="other.safetensors.index.json")
    assert "transformers_weights 'other.safetensors.index.json': expected the weights in model" in refusal(model)
    timm = shutil.copytree(timm_classifier, tmp_path / "timm")
    original = json.loads((timm / "config.json").read_text())
    for key in ("checkpoint_path", "pretrained_cfg", "cache_dir"):
        spoil(timm, model_args=original["model_args"] | {key: str(model / "evil.bin")})
        assert f"{key} would read another file" in refusal(timm)
        with pytest.raises(InputError, match=f"{key} would read another file"):
            build_model(str(timm))
    spoil(timm, **original | {"architecture": "local-dir:/tmp/x"})
    assert "architecture 'local-dir:/tmp/x': expected the name of an architecture" in refusal(timm)
    assert not (tmp_path / "owned").exists()


def test_adapters_are_refused(model):
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    assert "is an adapter (adapter_config.json) of another model: expected a complete model" in refusal(model)


# Code


def test_code_beside_the_weights_is_never_run(model, tmp_path, monkeypatch):
    """Remote code is refused even at a terminal, where a user could say yes."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    code = f"import pathlib\npathlib.Path({str(tmp_path / 'owned')!r}).touch()\n"
    for name in ("modeling_evil", "configuration_evil", "image_processing_evil", "tokenization_evil"):
        (model / f"{name}.py").write_text(code + "class Evil: pass\n")
    auto = {
        "AutoConfig": "configuration_evil.Evil",
        "AutoModelForImageClassification": "modeling_evil.Evil",
        "AutoModel": "modeling_evil.Evil",
        "AutoImageProcessor": "image_processing_evil.Evil",
        "AutoTokenizer": ["tokenization_evil.Evil", None],
    }
    original = (model / "config.json").read_text()
    spoil(model, auto_map=auto)  # of a kind that transformers has: its own class is taken
    assert probabilities(load_classifier(str(model)), [PHOTO]).shape == (1, 7)
    build_model(str(model))
    spoil(model, model_type="evil")
    assert "transformers cannot read its config.json" in refusal(model)
    for find in (build_model, find_text_encoder):
        with pytest.raises(InputError, match="transformers cannot read its config.json"):
            find(str(model))
    (model / "config.json").write_text(original)
    spoil(model, "preprocessor_config.json", image_processor_type="Evil", auto_map=auto)
    assert "its preprocessor_config.json cannot be read" in refusal(model)
    with pytest.raises(InputError, match="its preprocessor_config.json cannot be read"):
        shape = {"revision": None, "image_size": 32, "eval_resize": None}
        build_processor(str(model), normalization="checkpoint", **shape)
    assert not (tmp_path / "owned").exists()


def test_code_of_others_is_not_run_before_it_is_published(model, tmp_path):
    """Before a push, the files are loaded as their users load them: with the code that lies beside the weights."""
    code = f"import pathlib\npathlib.Path({str(tmp_path / 'owned')!r}).touch()\n"
    for name, auto, said in (
        ("modeling_mmbt.py", "modeling_mmbt.MMBTForImageClassification", "is not the file of that name in ham_hf"),
        ("modeling_evil.py", "modeling_evil.Evil", "is not the file of that name in ham_hf"),
        (None, "modeling_evil.Evil", "refers to the code 'modeling_evil.Evil', which is not among its files"),
        (None, "someone/else--modeling_evil.Evil", "refers to the code 'someone/else--modeling_evil.Evil'"),
    ):
        if name is not None:
            (model / name).write_text(code)
        spoil(model, auto_map={"AutoModelForImageClassification": auto})
        with pytest.raises(InputError, match=said):
            check_code(model)
        (model / str(name)).unlink(missing_ok=True)
    assert not (tmp_path / "owned").exists()


def test_a_kernel_of_the_hub_is_code_too(model):
    for value in ("someone/kernel", {"": "someone/kernel"}):
        spoil(model, attn_implementation=value)
        assert "that is code on the Hub; remove it" in refusal(model)


# Labels


@pytest.mark.parametrize(
    ("id2label", "said"),
    [
        ({"0": "akiec", "1": "bcc", "2": "bkl", "3": "df", "4": "mel", "5": "nv", "7": "vasc"}, "0 to 6, each once"),
        ({str(n - 1): label for n, label in enumerate(LABELS)}, "0 to 6, each once"),
        (dict.fromkeys("0123456", "nv"), "has 7 labels"),
        ({str(n): f"LABEL_{n}" for n in range(7)}, "has 7 labels (LABEL_0, LABEL_1"),
        ({str(n): label for n, label in enumerate([*LABELS[:6], "cat"])}, "has 7 labels"),
        ({str(n): n for n in range(7)}, "expected a label for each number"),
        ({str(n): [label] for n, label in enumerate(LABELS)}, "expected a label for each number"),
        (list(LABELS), "cannot read its config.json"),
        ("akiec", "cannot read its config.json"),
        ({"a": "akiec"}, "cannot read its config.json"),
        ({str(n): label for n, label in enumerate(LABELS[:6])}, "has 6 labels"),
        ({str(n): label for n, label in enumerate((*LABELS, "nv"))}, "contradicts|do not fit together"),
        ({str(n): f"{label}{ESCAPES}" for n, label in enumerate(LABELS)}, "must not contain control characters"),
    ],
)
def test_ambiguous_labels_are_refused(id2label, said, model, tmp_path, capsys):
    spoil(model, id2label=id2label)
    message = refusal(model)
    assert re.search(said if "|" in said else re.escape(said), message)
    PHOTO.save(tmp_path / "photo.png")
    assert main(["predict", str(model), str(tmp_path / "photo.png")]) == 2
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err


def test_labels_in_another_order_are_mapped_and_a_contradiction_is_refused(model):
    before = probabilities(load_classifier(str(model)), [PHOTO])
    order = LABELS[::-1]
    spoil(
        model,
        id2label={str(n): label for n, label in enumerate(order)},
        label2id={label: n for n, label in enumerate(order)},
    )
    assert probabilities(load_classifier(str(model)), [PHOTO])[0] == pytest.approx(before[0][::-1], abs=1e-6)
    spoil(model, label2id={label: n for n, label in enumerate(LABELS)})
    message = refusal(model)
    assert "contradicts itself: id2label calls output 0 'vasc', but label2id says that 'vasc' is 6" in message


# Weights and sizes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named_and_refused(value, model):
    weights = load_file(model / "model.safetensors")
    names = sorted(weights)
    weights[names[3]].view(-1)[1] = value
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    message = refusal(model)
    total = weights[names[3]].numel()
    assert f"1 of {total:,} values of {names[3]} are NaN or infinite" in message
    with pytest.raises(InputError, match="are NaN or infinite"):
        build_model(str(model))


def test_buffers_that_are_not_finite_are_refused_too(timm_classifier, tmp_path):
    folder = shutil.copytree(timm_classifier, tmp_path / "timm")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert f"{name} are NaN or infinite" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": 8000, "intermediate_size": 80_000}, "they do not belong together"),
        ({"image_size": 1_600_000}, "they do not belong together"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers '1000000000': expected 1,000 at most"),
        ({"num_labels": 10**9, "id2label": None}, "num_labels '1000000000': expected 100,000 labels at most"),
    ],
)
def test_a_config_of_another_size_is_refused_before_memory_is_taken(values, said, model):
    spoil(model, **values)
    assert said in refusal(model)


def test_a_processor_of_huge_images_is_refused(model):
    for size in ({"shortest_edge": 100_000}, {"shortest_edge": float("nan")}):
        spoil(model, "preprocessor_config.json", size=size)
        assert "expected 4096 pixels at most" in refusal(model)


def test_names_of_tensors_do_not_reach_the_terminal(model, capfd):
    weights = load_file(model / "model.safetensors")
    save_file(weights | {f"a{ESCAPES}": torch.zeros(1)}, model / "model.safetensors", {"format": "pt"})
    assert main(["predict", str(model), str(model)]) == 2
    assert "names must not contain control characters" in refusal(model)
    shown = capfd.readouterr()
    assert "\x1b]0;owned" not in shown.out + shown.err
