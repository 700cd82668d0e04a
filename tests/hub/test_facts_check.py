"""`ham-hf verify`: the facts of a published run must match its model, the images and each other."""

import json
from pathlib import Path

import pytest

from ham_hf.cli.main import main
from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.evaluation.model_facts import model_facts
from ham_hf.hub.published_files import CHECKSUMS, RECORD, write_checksums
from ham_hf.hub.verify.consistency import CANNOT_TELL, check_weights
from ham_hf.hub.verify.facts_check import check_report_facts
from ham_hf.hub.verify.files_check import check_checksums
from ham_hf.hub.verify.record_check import check_record
from ham_hf.inference.load import load_classifier


def report_of(run) -> dict:
    return json.loads((run / "report.json").read_text())


@pytest.fixture(scope="module")
def found_here(finished, data) -> tuple[dict, dict, dict]:
    """Return the facts that the model and the images show."""
    classifier = load_classifier(str(finished))
    _, facts, _ = load_checked(DataArguments(data_dir=str(data), split="grouped", split_seed=3))
    return model_facts(classifier), classifier.model.config.to_dict(), facts


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def set_facts(folder, change) -> None:
    """Make the same change in run.json and in report.json, as a careful forger does."""
    for name, keys in (("run.json", ()), ("report.json", ("run",))):
        values = json.loads((folder / name).read_text())
        change(values["run"] if keys else values)
        (folder / name).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["model"].update(parameters=300_000_000), "FALSE: model.parameters is 300000000, found "),
        (lambda r: r["model"].update(architecture="DermNet"), "FALSE: model.architecture is DermNet, found ViTFor"),
        (lambda r: r["model"].update(fusion="mmbt", text_name="bert"), "FALSE: model.fusion is mmbt, found none"),
        (lambda r: r["model"].update(members=[{"run": "a", "weight": 1.0}]), "FALSE: model.members is [1.0], found"),
        (lambda r: r.update(training=None), "cannot tell: belongs to an evaluation"),
        (
            lambda r: r["data"]["splits"]["train"].update(sha256="0" * 64, images=9000),
            "cannot tell: its training images are others than this split's",
        ),
        (lambda r: r["data"].update(dropped_rows={"dx": 3}), "data.dropped_rows is {'dx': 3}, here it is None"),
        (lambda r: r["data"].update(split_by_default=True), "data.split_by_default is True, here it is None"),
        (
            lambda r: r["data"]["splits"]["test"].update(absent_images=3),
            "cannot tell: data.splits.test.absent_images is 3, here it is 0",
        ),
        (lambda r: r.update(external=0.97), "writes no such run.external: 0.97"),
        (lambda r: r["model"].update(accuracy=0.97), "writes no such run.model.accuracy: 0.97"),
        (lambda r: r["training"].update(readers=150), "writes no such run.training.readers: 150"),
        (lambda r: r["data"].update(patients=28000), "writes no such run.data.patients: 28000"),
        (lambda r: r["data"]["splits"]["test"].update(patients=28000), "run.data.splits.test.patients: 28000"),
        (lambda r: r["model"].update(image_size=1024), "FALSE: model.image_size is 1024, found 32"),
        (lambda r: r["model"].update(test_time_augmentation="flips"), "FALSE: model.test_time_augmentation is flips"),
        (lambda r: r["model"].update(melanoma_threshold=0.2), "FALSE: model.melanoma_threshold is 0.2, found None"),
        (lambda r: r["model"].update(name="timm/eva02_large.x"), "model.name is timm/eva02_large.x, and config.json"),
        (lambda r: r["model"].update(name="trained on 10 million lesions"), "model.name is a sentence, not a name"),
        (lambda r: r["data"].update(source="ten thousand patients of us"), "data.source is a sentence, not a name"),
        (lambda r: r["training"].update(images=1_000_000), "FALSE: training.images is 1,000,000, and its training"),
        (lambda r: r["training"].update(best_metric="eval_accuracy", best_value=0.97), "training.best_value is 0.97"),
        (lambda r: r["data"]["splits"]["train"].update(lesions=7000), "FALSE: data.splits.train.lesions is 7000"),
        (lambda r: r["data"]["splits"]["test"].update(images=28000), "FALSE: data.splits.test.images is 28000"),
        (lambda r: r["data"]["splits"]["train"]["classes"].update(mel=900), "data.splits.train.classes mel is 900"),
        (lambda r: r["data"]["audit"].update(identical_images=-1), "FALSE: data.audit.identical_images is -1"),
        (lambda r: r["data"]["audit"].update(biopsied=9), "FALSE: data.audit.biopsied is 9, which no audit checks"),
        (lambda r: r["hardware"].update(gpu="used in a b c d e f hospitals"), "hardware.gpu is a sentence, not a"),
        (lambda r: r["hardware"].update(certificate="IIa"), "writes no such run.hardware.certificate: IIa"),
        (lambda r: r["versions"].update(torch="2, as TÜV says"), "writes no such run.versions.torch: 2, as TÜV says"),
    ],
)
def test_facts_that_contradict_the_model_or_the_images_are_reported(copy, found_here, change, message):
    def facts() -> str:
        findings = check_report_facts(copy, report_of(copy), *found_here, None)
        return "\n".join(f"{where}: {verdict}: {words}" for where, verdict, words in findings)

    assert facts() == ""
    set_facts(copy, change)
    assert message in facts() and "run.json" not in facts()


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        (
            "report.json",
            ("disclaimer",),
            "A certified medical device.",
            "FALSE: its disclaimer is 'A certified medical",
        ),
        (
            "report.json",
            ("external_validation",),
            {"accuracy": 0.97},
            "cannot tell: ham_hf 0.2.0 writes no such external_",
        ),
        (
            "report.json",
            ("ablation",),
            {"all_hidden": {}},
            "FALSE: has an ablation of the patient's data, which the model",
        ),
        (
            "report.json",
            ("results", "test"),
            None,
            "FALSE: has no results of the test images, and the model was evaluated",
        ),
        (
            "report.json",
            ("collapse", "saved_model", "top_class_share"),
            0.2,
            "collapse.saved_model.top_class_share is 0.2",
        ),
        ("run.json", ("training", "steps"), 99_999, "run.json: FALSE: contradicts report.json (training)"),
        ("run.json", ("certified",), True, "run.json: FALSE: contradicts report.json (it says more)"),
        (
            "arguments.json",
            ("model_name_or_path",),
            "google/derm",
            "arguments.json: FALSE: its model_name_or_path is google",
        ),
        (
            "arguments.json",
            ("external_accuracy",),
            0.97,
            "arguments.json: cannot tell: there is no argument ext",
        ),
    ],
)
def test_files_that_contradict_each_other_are_reported(copy, found_here, name, keys, value, message):
    values = json.loads((copy / name).read_text())
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (copy / name).write_text(json.dumps(values))
    spread = {"top_class_share": 1.0, "predicted_class_entropy": 0.0}
    findings = check_report_facts(copy, report_of(copy), *found_here, spread)
    assert message in "\n".join(f"{where}: {verdict}: {words}" for where, verdict, words in findings)


def test_a_schedule_of_sizes_that_the_arguments_contradict_is_reported(copy, found_here):
    set_facts(copy, lambda run: run["training"].update(train_size={"1": 32, "2": 64}))
    path = copy / "arguments.json"
    arguments = json.loads(path.read_text())
    for size, found in (({"1": 32, "2": 64}, 0), ({"1": 32}, 1), (32, 1)):
        path.write_text(json.dumps(arguments | {"train_size": size}))
        findings = check_report_facts(copy, report_of(copy), *found_here, None)
        assert sum("its train_size is" in words for _, _, words in findings) == found
        assert not any("training.train_size is" in words for _, _, words in findings)  # it is a known fact


# The list of hashes


def test_files_changed_removed_or_added_after_publishing_are_reported(copy):
    assert check_checksums(copy) == []
    edit(copy / "config.json", "{", "{ ")
    (copy / "report.html").unlink()
    (copy / "split.csv").write_text("image_id,split\n")
    (copy / "LICENSE").write_text("mine")  # nothing that is published from here
    found = [(finding.where, finding.verdict, finding.words.split()[1]) for finding in check_checksums(copy)]
    expected = [("config.json", "changed"), ("report.html", "missing,"), ("split.csv", "added")]
    assert found == [(name, CANNOT_TELL, word) for name, word in expected]
    for text in ("", "x  y\n", f"{'0' * 64}  ../../etc/passwd\n", f"{'0' * 64}  /etc/passwd\n"):
        (copy / CHECKSUMS).write_text(text)
        [finding] = check_checksums(copy)
        assert "is not as `ham-hf push` writes it" in finding.words


def test_a_published_model_without_its_checksums_does_not_hold(copy, data, capsys):
    assert main(["verify", str(copy), "--data_dir", str(data)]) == 0
    (copy / CHECKSUMS).unlink()
    assert main(["verify", str(copy), "--data_dir", str(data)]) == 2
    shown = capsys.readouterr().out
    assert "SHA256SUMS: cannot tell: is missing, and `ham-hf push` publishes it" in shown


def test_unchecked_files_are_listed(copy, data, tmp_path, capsys):
    others = ["CERTIFICATE.md", "predictions_external.csv", "report.pdf", "tokenizer_97.json", "vocab.txt"]
    for name in (*others, "plots/CERTIFICATE.md"):
        (copy / name).write_text("97")
    write_checksums(copy)
    (copy / "link").symlink_to(tmp_path)
    assert main(["verify", str(copy), "--data_dir", str(data)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    expected = ["CERTIFICATE.md", "link", "plots/", "predictions_external.csv", "report.pdf", *others[3:]]
    assert last.startswith("Not checked: ") and last.endswith(f"; the files {', '.join(expected)}.")


def test_a_record_that_lacks_training_images_is_reported(copy, data):
    splits, facts, checks = load_checked(DataArguments(data_dir=str(data), split="grouped", split_seed=3))

    def found() -> list[str]:
        train = facts["splits"]["train"]["sha256"]
        return [
            " ".join(finding[1:]) for finding in check_record(copy, report_of(copy), splits["train"], train, checks)
        ]

    assert found() == []
    rows = (copy / RECORD).read_text().splitlines()
    (copy / RECORD).write_text("\n".join([rows[0], *rows[21:]]) + "\n")
    assert found() == ["FALSE lists 22 images of this training, and report.json says 42"]
    (copy / RECORD).unlink()
    assert found() == ["cannot tell is missing, and is published with a model of HAM10000's images"]
    set_facts(copy, lambda run: run["model"].pop("weights_sha256"))
    assert [finding.words for finding in check_weights(copy, report_of(copy))] == [
        "has no weights_sha256, which `ham-hf train` always writes"
    ]
