"""`ham-hf verify` on a card of ours: its page, report.json and .eval_results against what is measured."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from ham_hf.cli.main import main
from ham_hf.config.arguments import DataArguments
from ham_hf.data.dataset import load_checked
from ham_hf.evaluation.model_facts import model_facts
from ham_hf.hub.model_repo import EVAL_RESULTS, add_eval_results, stage
from ham_hf.hub.published_files import CHECKSUMS, RECORD, write_checksums
from ham_hf.hub.verify.consistency import CANNOT_TELL, check_weights
from ham_hf.hub.verify.facts_check import check_report_facts
from ham_hf.hub.verify.files_check import check_checksums
from ham_hf.hub.verify.page_check import check_pages
from ham_hf.hub.verify.record_check import check_record
from ham_hf.inference.load import load_classifier
from ham_hf.reporting.model_card import claims, read_files, render_card
from tests.helpers.small_data import ham10000_rows, write_folder
from tests.helpers.tiny_runs import make_true_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("my data") / "it's images_1", ham10000_rows())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    return make_true_run(tmp_path_factory.mktemp("runs") / "vit", data)


@pytest.fixture()
def run(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def verify(run, data, capsys, *words) -> tuple[int, str]:
    code = main(["verify", str(run), "--data_dir", str(data), *map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def report_of(run) -> dict:
    return json.loads((run / "report.json").read_text())


def set_report(run, report, card: bool = False) -> None:
    (run / "report.json").write_text(json.dumps(report))
    if card:
        pictures = re.findall(r"\]\(plots/([\w.]+)\)", (run / "README.md").read_text())
        (run / "README.md").write_text(render_card(report, pictures, read_files(run)))


# The page and report.json


def test_a_card_as_it_was_written_holds_also_where_it_was_published(run, data, tmp_path, capsys):
    code, shown = verify(run, data, capsys)
    assert code == 0 and "18 claims: 18 hold, 0 false, 0 cannot be told." in shown and "README.md, line" not in shown
    stage(run, tmp_path / "staged", repo_id="ada/skin-2")  # other paths, another name in the commands
    assert str(data) in (run / "README.md").read_text().replace("\\", "")
    assert str(data) not in (tmp_path / "staged" / "README.md").read_text().replace("\\", "")
    assert verify(tmp_path / "staged", data, capsys)[0] == 0


def test_an_edited_figure_of_a_table_is_caught_with_its_line(run, data, capsys):
    lines = (run / "README.md").read_text().split("\n")
    [at] = [number for number, line in enumerate(lines) if line.startswith("| balanced accuracy | ")]
    true = lines[at].split(" | ")[1].split()[0]
    lines[at] = lines[at].replace(true, ".987", 1)
    (run / "README.md").write_text("\n".join(lines))
    code, shown = verify(run, data, capsys)
    assert code == 1 and "18 hold, 0 false, 0 cannot be told. Not among them, above: 1." in shown
    assert re.search(
        rf"README.md, line {at + 1}: FALSE: balanced accuracy: \.987 .*, where report.json has \{true}", shown
    )


def test_a_line_with_a_figure_that_is_gone_or_added_is_caught(run, data, capsys):
    text = (run / "README.md").read_text()
    (run / "README.md").write_text(re.sub(r"\n\| log loss .*", "", text) + "\nBetter than 150 dermatologists.\n")
    code, shown = verify(run, data, capsys)
    assert code == 1 and "a line of report.json is missing here: | log loss" in shown
    assert "report.json makes no such line: Better than 150 dermatologists." in shown


def test_words_without_figures_that_were_added_are_named(run, data, capsys):
    with (run / "README.md").open("a") as file:
        file.write("\n## Thanks\n\nTo the dermatologists.\n")
    code, shown = verify(run, data, capsys)
    assert code == 2 and "cannot tell: report.json makes no such line: To the dermatologists." in shown


def test_an_edited_figure_of_report_json_is_caught_even_with_a_card_to_match(run, data, capsys):
    report = report_of(run)
    report["results"]["test"]["metrics"]["recall_mel"]["value"] = 0.95
    set_report(run, report)
    code, shown = verify(run, data, capsys)
    assert code == 1 and re.search(r"README.md, line \d+: FALSE: Melanoma \(mel\)", shown)
    assert "report.json, test: FALSE: metrics recall_mel value is 0.95, measured " in shown
    set_report(run, report, card=True)
    code, shown = verify(run, data, capsys)
    assert code == 1 and "README.md, line" not in shown and "recall_mel value is 0.95" in shown


def test_edited_subgroups_and_counts_are_caught(run, data, capsys):
    report = report_of(run)
    report["results"]["test"]["confusion_matrix"][0][0] += 1
    report["results"]["validation"]["always_nv"]["accuracy"] = 0.5
    set_report(run, report, card=True)
    code, shown = verify(run, data, capsys)
    assert code == 1 and "confusion_matrix 1 1 is" in shown and "validation: FALSE: always_nv accuracy is 0.5" in shown
    report = report_of(run)
    report["results"]["test"]["subgroups"]["sex"][0]["images"] += 1
    set_report(run, report, card=True)
    assert "its subgroups are not those of the patients in this copy" in verify(run, data, capsys)[1]


def test_a_page_of_another_version_or_of_ones_own_cannot_be_told(run, data, capsys):
    report = report_of(run)
    text = (run / "README.md").read_text()
    (run / "README.md").write_text(text.replace("| log loss", "| logarithmic loss 2"))
    set_report(run, report | {"ham_hf": "0.0.1"})
    code, shown = verify(run, data, capsys)
    assert code == 2 and "README.md: cannot tell: was written by ham_hf 0.0.1" in shown
    assert "report.json makes no such line: | logarithmic loss 2" in shown
    (run / "README.md").write_text(text.split("\n---\n")[0] + "\n---\n\n# My model\n\nIt is 99 % right.\n")
    code, shown = verify(run, data, capsys)
    assert code == 2 and "is not the page that report.json makes" in shown


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda report: report["run"]["model"].pop("labels"),
            "report.json: cannot tell: not as `ham-hf report` writes",
        ),
        (lambda report: report["results"].update(test=[]), "report.json: cannot tell: not as `ham-hf report` writes"),
        (lambda report: report["run"]["data"]["splits"]["test"].update(sha256="0" * 64), "about other images"),
    ],
)
def test_a_report_json_that_cannot_be_compared_is_told(run, data, capsys, change, said):
    report = report_of(run)
    change(report)
    set_report(run, report)
    code, shown = verify(run, data, capsys)
    assert code in (1, 2) and said in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "report.json: cannot tell: is missing, and this is a card of ham_hf"),
        ('{"accuracy": 0.5}', "report.json: cannot tell: is not as `ham-hf report` writes it, and this is a card of"),
        ("{", "report.json is not readable as JSON"),
        ("[]", "report.json: cannot tell: is not as `ham-hf report` writes it"),
        (
            '{"schema": 1, "run": {}, "run": {}}',
            "report.json: cannot tell: not as `ham-hf report` writes it (ValueError: 'run'",
        ),
    ],
)
def test_one_of_our_cards_without_its_report_json_cannot_hold(run, data, capsys, text, said):
    (run / "report.json").unlink()
    if text is not None:
        (run / "report.json").write_text(text)
    code, shown = verify(run, data, capsys)
    assert code == 2 and said in shown and "18 hold, 0 false" in shown


@pytest.mark.parametrize("key", ["schema", "run", "results", "disclaimer"])
def test_a_key_that_was_taken_out_of_report_json_does_not_make_it_somebody_elses(run, data, capsys, key):
    report = report_of(run)
    del report[key]
    set_report(run, report)
    code, shown = verify(run, data, capsys)
    assert code == 2 and f"report.json: cannot tell: not as `ham-hf report` writes it (KeyError: '{key}')" in shown


# .eval_results


@pytest.fixture()
def published(run, tmp_path):
    """As `ham-hf push --eval_results` stages it, without the card and all else: these claims alone."""
    stage(run, tmp_path / "staged", repo_id="ada/skin")
    add_eval_results(tmp_path / "staged")
    shutil.rmtree(tmp_path / "staged" / "plots")
    for path in (tmp_path / "staged").iterdir():
        if path.is_file() and path.name not in ("config.json", "preprocessor_config.json", "model.safetensors"):
            path.unlink()
    return tmp_path / "staged"


def test_eval_results_hold_what_the_card_claims(run, published):
    entries = parse_eval_result_entries(yaml.safe_load((published / EVAL_RESULTS).read_text()))
    expected = claims(report_of(run))
    assert [entry.value for entry in entries] == [claim.metric_value for claim in expected] and len(entries) == 18
    assert {entry.task_id for entry in entries} >= {"validation_balanced_accuracy", "test_macro_f1"}
    assert ModelCard.load(run / "README.md").data.eval_results[0].dataset_revision in entries[0].notes


def test_claims_in_eval_results_alone_are_checked_like_those_of_a_card(published, data, capsys):
    code, shown = verify(published, data, capsys)
    assert code == 2 and "18 claims: 18 hold" in shown and f"holds ({EVAL_RESULTS})" in shown
    assert (
        "report.json: cannot tell: is missing, and this is a card of ham_hf (.eval_results/ham10000.yaml, its" in shown
    )
    entries = yaml.safe_load((published / EVAL_RESULTS).read_text())
    entries[0]["value"] += 0.05
    entries[1]["notes"] = entries[1]["notes"].replace("95 % interval: 0", "95 % interval: 0.9; was: 0")
    (published / EVAL_RESULTS).write_text(yaml.safe_dump(entries))
    code, shown = verify(published, data, capsys)
    assert code == 1 and f"FALSE: same images, another figure ({EVAL_RESULTS})" in shown
    assert "the claims are only in .eval_results" in verify(published, data, capsys, "--write", "README.md")[1]


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("- dataset: {id: ada/ham10000, task_id: test_accuracy}\n  value: 0.99\n", 1, "outside the interval"),
        ("- dataset: {id: ada/ham10000, task_id: test_accuracy}\n  value: good\n", 2, "'good' is not a number"),
        ("- dataset: {id: ada/ham10000, task_id: test_accuracy}\n  value: .nan\n", 2, "nan is not a number"),
        ("- dataset: {id: ada/ham10000, task_id: test_accuracy}\n  value: [1]\n", 2, "[1] is not a number"),
        (
            f"- dataset: {{id: ada/ham10000, task_id: test_accuracy}}\n  value: 1{'0' * 400}\n",
            2,
            "a number has 401 characters",
        ),
        (
            "- dataset: {id: ada/ham10000, task_id: accuracy}\n  value: 0.99\n",
            2,
            "--part validation or --part test says",
        ),
        ("- dataset: {id: ada/ham10000, task_id: 5}\n  value: 0.99\n", 2, "it is about the split None"),
        ("- dataset: {id: a/b}\n  value: 0.99\n", 2, "entry 1 cannot be read (no task_id)"),
        ("- dataset: skin\n  value: 0.99\n", 2, "entry 1 cannot be read (no dataset)"),
        (
            "- dataset: {id: a/b, task_id: test_accuracy}\n  value: 0.99\n",
            2,
            "another dataset than these images: 'a/b'",
        ),
        ("- dataset: {id: ada/ham10000, task_id: test_accuracy}\n  value: 052\n", 2, "'052' is not a number"),
        ("- dataset: {id: ada/ham10000, task_id: test_accuracy}\n  value: 0.1_4\n", 2, "'0.1_4' is not a number"),
        ("- dataset: {id: ada/ham10000, task_id: test_accuracy_九七}\n  value: 0.14\n", 2, "unknown metric"),
        ("- dataset: {id: ada/ham10000, task_id: validation_test_accuracy}\n  value: 0.14\n", 2, "the split None"),
        (
            "- dataset: {id: ada/ham10000, task_id: test_accuracy}\n  value: 0.14\n  date: 0.97 - 0.99\n",
            2,
            "its 'date' cannot be checked",
        ),
        (
            "- dataset: {id: ada/ham10000, task_id: test_accuracy, revision: of 28000 patients}\n  value: 0.14\n"
            f"  notes: 'SHA-256 of the images: {'0' * 64}'\n",
            2,
            "made on other test images",
        ),
        ("dataset: skin\n", 2, "ham10000.yaml cannot be read (no list of results)"),
        ("- {", 2, "ham10000.yaml is not readable YAML"),
        ("", 2, "ham10000.yaml cannot be read (no list of results)"),
    ],
)
def test_eval_results_of_others_and_broken_ones(published, data, capsys, text, code, said):
    (published / EVAL_RESULTS).write_text(text)
    found, shown = verify(published, data, capsys, "--split", "grouped", "--split_seed", "3")
    assert (found, said in shown) == (code, True), shown


# Lies, each told to the checks alone: without the model


@pytest.fixture(scope="module")
def staged(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("staged") / "model"
    stage(finished, folder, repo_id="ada/skin")
    add_eval_results(folder)
    return folder


@pytest.fixture()
def copy(staged, tmp_path) -> Path:
    return Path(shutil.copytree(staged, tmp_path / "copy"))


def pages(folder, repo_id: str | None = None) -> str:
    """Return the findings about the pages, one line each."""
    findings = check_pages(folder, report_of(folder), repo_id)
    return "\n".join(f"{where}: {verdict}: {words}" for where, verdict, words in findings)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('model="ada/skin"', 'model="ada/skin\n\nA certified medical device.\n"', "FALSE: classify = pipeline"),
        ('model="ada/skin"', 'model="ada/skin is certified"', "FALSE: classify = pipeline"),
        ("Research software, not a medical device.", "A certified medical device.", "A certified medical device."),
        (
            "## License",
            "Finds ninety-seven percent of melanomas.\n## License",
            "FALSE: report.json makes no such line",
        ),
        ("## License", "Finds ½ of all.\n## License", "FALSE: report.json makes no such line: Finds ½ of all."),
        ("## License", "Cleared by the FDA.\n## License", "cannot tell: report.json makes no such line: Cleared by"),
        (
            "## License",
            "<!-- certified -->\n## License",
            "cannot tell: report.json makes no such line: <!-- certified",
        ),
        ("## License", "[certificate](https://x.example)\n## License", "no such line: [certificate]"),
        ("## License", "![roc test](https://x.example/roc.png)\n## License", "no such line: ![roc test]"),
        (
            "## License",
            "![97 test](plots/97_test.png)\n## License",
            "FALSE: report.json makes no such line: ![97 test]",
        ),
        ("## License", "\n## License", "cannot tell: report.json makes no such line: an empty line"),
        ("## License", "\x0c## License", "FALSE: "),
        ("## License", "## License  ", "FALSE: ##"),
        ("## License", "## Lic\u200bence", "FALSE: ##"),
        ("Not for\nclinical", "Fit for\nclinical", "FALSE: For research on dermatoscopic: Fit for"),
        (
            "license: cc-by-nc-4.0",
            "license: mit",
            "front matter, license: FALSE: mit, where report.json has cc-by-nc-4.0",
        ),
        ("license:", "# certified, 97 %\nlicense:", "line 3: cannot tell: a comment: # certified, 97 %"),
        (
            "- medical",
            "- medical\n- fda-cleared",
            "front matter, tags[4]: cannot tell: report.json makes no such entry",
        ),
        (
            "pipeline_tag:",
            "base_model: google/derm-foundation\npipeline_tag:",
            "base_model: cannot tell: report.json makes",
        ),
        (
            "license:",
            "FDA cleared:\nlicense:",
            "front matter, FDA cleared: cannot tell: report.json makes no such entry",
        ),
        ("- medical", "- &fda-cleared medical", "cannot tell: ham_hf writes no such YAML: - &fda-cleared medical"),
        ("- medical", "- !!str medical", "cannot tell: ham_hf writes no such YAML: - !!str medical"),
        ("images: 14", "images: 28000", "args.images: FALSE: 28000, where report.json has 14"),
        ("name: Image Classification", "name: Diagnosis", "task.name: FALSE: Diagnosis, where"),
        ("- name: ", "- name: 97 % accurate, ", "model-index[0].name: FALSE: 97 % accurate"),
        ("      config: grouped\n", "", "dataset.config: FALSE: is missing, report.json has grouped"),
    ],
)
def test_every_line_of_a_card_is_what_report_json_makes(copy, old, new, said):
    assert pages(copy) == ""
    (copy / "plots" / "97_test.png").write_bytes((copy / "plots" / "roc_test.png").read_bytes())
    edit(copy / "README.md", old, new)
    assert said in pages(copy)


def test_lines_after_the_end_and_other_pages_are_named(copy):
    for name in ("README.md", "report.html"):
        with (copy / name).open("a") as file:
            file.write("Better than 150 dermatologists.\n")
    edit(copy / EVAL_RESULTS, "notes: '", "notes: 'of 10,000 patients; ")
    shown = pages(copy)
    for name in ("README.md", "report.html"):
        assert re.search(rf"^{name}, line \d+: FALSE: .*Better than 150 dermatologists", shown, flags=re.MULTILINE), (
            name
        )
    assert f"{EVAL_RESULTS}, line " in shown


def test_a_card_of_another_repository_is_told(copy):
    assert pages(copy, "ada/skin") == ""
    assert pages(copy, "eve/better") == "README.md: cannot tell: its commands are for ada/skin, but this is eve/better"


def test_a_front_matter_that_is_gone_is_false(copy):
    text = (copy / "README.md").read_text()
    (copy / "README.md").write_text(text.split("\n---\n", 1)[1])
    assert "README.md, front matter, model-index: FALSE: is missing" in pages(copy)


@pytest.fixture(scope="module")
def found_here(finished, data) -> tuple[dict, dict, dict]:
    """Return the facts that the model and the images show."""
    classifier = load_classifier(str(finished))
    _, facts, _ = load_checked(DataArguments(data_dir=str(data), split="grouped", split_seed=3))
    return model_facts(classifier), classifier.model.config.to_dict(), facts


def set_facts(folder, change) -> None:
    """Change run.json and the run in report.json alike, as a careful forger does."""
    for name, keys in (("run.json", ()), ("report.json", ("run",))):
        values = json.loads((folder / name).read_text())
        change(values["run"] if keys else values)
        (folder / name).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run["model"].update(parameters=300_000_000), "FALSE: model.parameters is 300000000, found "),
        (
            lambda run: run["model"].update(architecture="DermNet"),
            "FALSE: model.architecture is DermNet, found ViTFor",
        ),
        (lambda run: run["model"].update(fusion="mmbt", text_name="bert"), "FALSE: model.fusion is mmbt, found none"),
        (
            lambda run: run["model"].update(members=[{"run": "a", "weight": 1.0}]),
            "FALSE: model.members is [1.0], found",
        ),
        (lambda run: run.update(training=None), "cannot tell: belongs to an evaluation"),
        (
            lambda run: run["data"]["splits"]["train"].update(sha256="0" * 64, images=9000),
            "cannot tell: its training images are others than this split's",
        ),
        (lambda run: run["data"].update(dropped_rows={"dx": 3}), "data.dropped_rows is {'dx': 3}, here it is None"),
        (lambda run: run["data"].update(split_by_default=True), "data.split_by_default is True, here it is None"),
        (
            lambda run: run["data"]["splits"]["test"].update(absent_images=3),
            "cannot tell: data.splits.test.absent_images is 3, here it is 0",
        ),
        (lambda run: run.update(external=0.97), "writes no such run.external: 0.97"),
        (lambda run: run["model"].update(accuracy=0.97), "writes no such run.model.accuracy: 0.97"),
        (lambda run: run["training"].update(readers=150), "writes no such run.training.readers: 150"),
        (lambda run: run["data"].update(patients=28000), "writes no such run.data.patients: 28000"),
        (lambda run: run["data"]["splits"]["test"].update(patients=28000), "run.data.splits.test.patients: 28000"),
        (lambda run: run["model"].update(image_size=1024), "FALSE: model.image_size is 1024, found 32"),
        (
            lambda run: run["model"].update(test_time_augmentation="flips"),
            "FALSE: model.test_time_augmentation is flips",
        ),
        (
            lambda run: run["model"].update(melanoma_threshold=0.2),
            "FALSE: model.melanoma_threshold is 0.2, found None",
        ),
        (
            lambda run: run["model"].update(name="timm/eva02_large.x"),
            "model.name is timm/eva02_large.x, and config.json",
        ),
        (
            lambda run: run["model"].update(name="trained on 10 million lesions"),
            "model.name is a sentence, not a name",
        ),
        (
            lambda run: run["data"].update(source="ten thousand patients of us"),
            "data.source is a sentence, not a name",
        ),
        (
            lambda run: run["training"].update(images=1_000_000),
            "FALSE: training.images is 1,000,000, and its training",
        ),
        (
            lambda run: run["training"].update(best_metric="eval_accuracy", best_value=0.97),
            "training.best_value is 0.97",
        ),
        (lambda run: run["data"]["splits"]["train"].update(lesions=7000), "FALSE: data.splits.train.lesions is 7000"),
        (lambda run: run["data"]["splits"]["test"].update(images=28000), "FALSE: data.splits.test.images is 28000"),
        (
            lambda run: run["data"]["splits"]["train"]["classes"].update(mel=900),
            "data.splits.train.classes mel is 900",
        ),
        (lambda run: run["data"]["audit"].update(identical_images=-1), "FALSE: data.audit.identical_images is -1"),
        (
            lambda run: run["data"]["audit"].update(biopsied=9),
            "FALSE: data.audit.biopsied is 9, which no audit checks",
        ),
        (lambda run: run["hardware"].update(gpu="used in a b c d e f hospitals"), "hardware.gpu is a sentence, not a"),
        (lambda run: run["hardware"].update(certificate="IIa"), "writes no such run.hardware.certificate: IIa"),
        (
            lambda run: run["versions"].update(torch="2, as TÜV says"),
            "writes no such run.versions.torch: 2, as TÜV says",
        ),
    ],
)
def test_facts_that_the_model_or_the_images_contradict_are_named(copy, found_here, change, said):
    def facts() -> str:
        findings = check_report_facts(copy, report_of(copy), *found_here, None)
        return "\n".join(f"{where}: {verdict}: {words}" for where, verdict, words in findings)

    assert facts() == ""
    set_facts(copy, change)
    assert said in facts() and "run.json" not in facts()


@pytest.mark.parametrize(
    ("name", "keys", "value", "said"),
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
def test_files_that_contradict_each_other_are_named(copy, found_here, name, keys, value, said):
    values = json.loads((copy / name).read_text())
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (copy / name).write_text(json.dumps(values))
    spread = {"top_class_share": 1.0, "predicted_class_entropy": 0.0}
    findings = check_report_facts(copy, report_of(copy), *found_here, spread)
    assert said in "\n".join(f"{where}: {verdict}: {words}" for where, verdict, words in findings)


# The list of hashes


def test_what_was_changed_lost_or_added_after_publishing_is_named(copy):
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


def test_a_published_model_without_its_list_of_hashes_cannot_hold(copy, data, capsys):
    assert verify(copy, data, capsys)[0] == 0
    (copy / CHECKSUMS).unlink()
    code, shown = verify(copy, data, capsys)
    assert code == 2 and "SHA256SUMS: cannot tell: is missing, and `ham-hf push` publishes it" in shown


def test_files_that_are_not_checked_are_listed(copy, data, tmp_path, capsys):
    others = ["CERTIFICATE.md", "predictions_external.csv", "report.pdf", "tokenizer_97.json", "vocab.txt"]
    for name in (*others, "plots/CERTIFICATE.md"):
        (copy / name).write_text("97")
    write_checksums(copy)
    (copy / "link").symlink_to(tmp_path)
    assert main(["verify", str(copy), "--data_dir", str(data)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    expected = ["CERTIFICATE.md", "link", "plots/", "predictions_external.csv", "report.pdf", *others[3:]]
    assert last.startswith("Not checked: ") and last.endswith(f"; the files {', '.join(expected)}.")


def test_a_record_that_lacks_training_images_is_told(copy, data):
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
