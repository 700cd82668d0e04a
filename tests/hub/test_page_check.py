"""`ham-hf verify`: the card, the page, report.json and .eval_results must match what is measured."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from ham_hf.cli.main import main
from ham_hf.hub.model_repo import EVAL_RESULTS, add_eval_results, stage
from ham_hf.hub.verify.page_check import check_pages
from ham_hf.reporting.eval_results import read_eval_results
from ham_hf.reporting.model_card import claims, read_files, render_card


def verify(run, data, capsys, *words) -> tuple[int, str]:
    code = main(["verify", str(run), "--data_dir", str(data), *map(str, words)])
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def report_of(run) -> dict:
    return json.loads((run / "report.json").read_text())


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def set_report(run, report, card: bool = False) -> None:
    (run / "report.json").write_text(json.dumps(report))
    if card:
        pictures = re.findall(r"\]\(plots/([\w.]+)\)", (run / "README.md").read_text())
        (run / "README.md").write_text(render_card(report, pictures, read_files(run)))


# The page and report.json


def test_an_unedited_card_holds_before_and_after_publishing(run, data, tmp_path, capsys):
    code, shown = verify(run, data, capsys)
    assert code == 0 and "18 claims: 18 hold, 0 false, 0 cannot be told." in shown and "README.md, line" not in shown
    stage(run, tmp_path / "staged", repo_id="ada/skin-2")  # other paths, another name in the commands
    assert str(data) in (run / "README.md").read_text().replace("\\", "")
    assert str(data) not in (tmp_path / "staged" / "README.md").read_text().replace("\\", "")
    assert verify(tmp_path / "staged", data, capsys)[0] == 0


def test_an_edited_figure_in_a_table_is_reported_with_its_line(run, data, capsys):
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


def test_removed_and_added_lines_with_figures_are_reported(run, data, capsys):
    text = (run / "README.md").read_text()
    (run / "README.md").write_text(re.sub(r"\n\| log loss .*", "", text) + "\nBetter than 150 dermatologists.\n")
    code, shown = verify(run, data, capsys)
    assert code == 1 and "a line of report.json is missing here: | log loss" in shown
    assert "report.json makes no such line: Better than 150 dermatologists." in shown


def test_added_text_without_figures_is_reported(run, data, capsys):
    with (run / "README.md").open("a") as file:
        file.write("\n## Thanks\n\nTo the dermatologists.\n")
    code, shown = verify(run, data, capsys)
    assert code == 2 and "cannot tell: report.json makes no such line: To the dermatologists." in shown


def test_an_edited_figure_in_report_json_is_reported_even_if_the_card_matches(run, data, capsys):
    report = report_of(run)
    report["results"]["test"]["metrics"]["recall_mel"]["value"] = 0.95
    set_report(run, report)
    code, shown = verify(run, data, capsys)
    assert code == 1 and re.search(r"README.md, line \d+: FALSE: Melanoma \(mel\)", shown)
    assert "report.json, test: FALSE: metrics recall_mel value is 0.95, measured " in shown
    set_report(run, report, card=True)
    code, shown = verify(run, data, capsys)
    assert code == 1 and "README.md, line" not in shown and "recall_mel value is 0.95" in shown


def test_edited_subgroups_and_counts_are_reported(run, data, capsys):
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


def test_a_page_of_another_version_or_by_hand_cannot_be_checked(run, data, capsys):
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
    ("change", "message"),
    [
        (
            lambda report: report["run"]["model"].pop("labels"),
            "report.json: cannot tell: not as `ham-hf report` writes",
        ),
        (lambda report: report["results"].update(test=[]), "report.json: cannot tell: not as `ham-hf report` writes"),
        (lambda report: report["run"]["data"]["splits"]["test"].update(sha256="0" * 64), "about other images"),
    ],
)
def test_a_malformed_report_json_is_reported(run, data, capsys, change, message):
    report = report_of(run)
    change(report)
    set_report(run, report)
    code, shown = verify(run, data, capsys)
    assert code in (1, 2) and message in shown


@pytest.mark.parametrize(
    ("text", "message"),
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
def test_a_card_of_ham_hf_without_a_readable_report_json_does_not_hold(run, data, capsys, text, message):
    (run / "report.json").unlink()
    if text is not None:
        (run / "report.json").write_text(text)
    code, shown = verify(run, data, capsys)
    assert code == 2 and message in shown and "18 hold, 0 false" in shown


@pytest.mark.parametrize("key", ["schema", "run", "results", "disclaimer"])
def test_a_removed_key_does_not_turn_report_json_into_that_of_another_tool(run, data, capsys, key):
    report = report_of(run)
    del report[key]
    set_report(run, report)
    code, shown = verify(run, data, capsys)
    assert code == 2 and f"report.json: cannot tell: not as `ham-hf report` writes it (KeyError: '{key}')" in shown


# .eval_results


@pytest.fixture()
def published(run, tmp_path):
    """Return what `ham-hf push --eval_results` stages, without the card: only the claims in .eval_results."""
    stage(run, tmp_path / "staged", repo_id="ada/skin")
    add_eval_results(tmp_path / "staged")
    shutil.rmtree(tmp_path / "staged" / "plots")
    for path in (tmp_path / "staged").iterdir():
        if path.is_file() and path.name not in ("config.json", "preprocessor_config.json", "model.safetensors"):
            path.unlink()
    return tmp_path / "staged"


def test_eval_results_contain_the_claims_of_the_card(run, published):
    entries = parse_eval_result_entries(yaml.safe_load((published / EVAL_RESULTS).read_text()))
    expected = claims(report_of(run))
    assert [entry.value for entry in entries] == [claim.metric_value for claim in expected] and len(entries) == 18
    assert {entry.task_id for entry in entries} >= {"validation_balanced_accuracy", "test_macro_f1"}
    assert ModelCard.load(run / "README.md").data.eval_results[0].dataset_revision in entries[0].notes
    for (_, read), claim in zip(read_eval_results(published), expected, strict=True):
        assert claim.dataset_args["same_lesion"] == "ham10000-2"  # which decides a grouped split
        assert read["dataset"]["args"].items() <= claim.dataset_args.items()
        assert read["dataset"]["args"].keys() == {"split_seed", "same_lesion"}


def test_claims_in_eval_results_are_checked_like_those_of_a_card(published, data, capsys):
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


def entry(task: str, value: str, dataset: str = "ada/ham10000") -> str:
    return f"- dataset: {{id: {dataset}, task_id: {task}}}\n  value: {value}\n"


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (entry("test_accuracy", "0.99"), 1, "outside the interval"),
        (entry("test_accuracy", "good"), 2, "'good' is not a number"),
        (entry("test_accuracy", ".nan"), 2, "nan is not a number"),
        (entry("test_accuracy", "[1]"), 2, "[1] is not a number"),
        (entry("test_accuracy", f"1{'0' * 400}"), 2, "a number has 401 characters"),
        (entry("test_accuracy", "052"), 2, "'052' is not a number"),
        (entry("test_accuracy", "0.1_4"), 2, "'0.1_4' is not a number"),
        (entry("accuracy", "0.99"), 2, "--part validation or --part test says"),
        (entry("5", "0.99"), 2, "it is about the split None"),
        (entry("validation_test_accuracy", "0.14"), 2, "the split None"),
        (entry("test_accuracy_九七", "0.14"), 2, "unknown metric"),
        (entry("test_accuracy", "0.14\n  date: 0.97 - 0.99"), 2, "its 'date' cannot be checked"),
        (
            entry("test_accuracy, revision: of 28000 patients", f"0.14\n  notes: 'SHA-256 of the images: {'0' * 64}'"),
            2,
            "made on other test images",
        ),
        (entry("test_accuracy", "0.99", "a/b"), 2, "another dataset than these images: 'a/b'"),
        ("- dataset: {id: a/b}\n  value: 0.99\n", 2, "entry 1 cannot be read (no task_id)"),
        ("- dataset: skin\n  value: 0.99\n", 2, "entry 1 cannot be read (no dataset)"),
        ("dataset: skin\n", 2, "ham10000.yaml cannot be read (no list of results)"),
        ("- {", 2, "ham10000.yaml is not readable YAML"),
        ("", 2, "ham10000.yaml cannot be read (no list of results)"),
    ],
)
def test_foreign_and_malformed_eval_results(published, data, capsys, text, code, message):
    (published / EVAL_RESULTS).write_text(text)
    found, shown = verify(published, data, capsys, "--split", "grouped", "--split_seed", "3")
    assert (found, message in shown) == (code, True), shown


# Each line of the published pages, without the model


def pages(folder, repo_id: str | None = None) -> str:
    """Return the findings about the pages, one line each."""
    findings = check_pages(folder, report_of(folder), repo_id)
    return "\n".join(f"{where}: {verdict}: {words}" for where, verdict, words in findings)


@pytest.mark.parametrize(
    ("old", "new", "message"),
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
def test_every_edited_line_of_a_card_is_reported(copy, old, new, message):
    assert pages(copy) == ""
    (copy / "plots" / "97_test.png").write_bytes((copy / "plots" / "roc_test.png").read_bytes())
    edit(copy / "README.md", old, new)
    assert message in pages(copy)


def test_lines_appended_to_any_page_are_reported(copy):
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


def test_a_card_of_another_repository_is_reported(copy):
    assert pages(copy, "ada/skin") == ""
    assert pages(copy, "eve/better") == "README.md: cannot tell: its commands are for ada/skin, but this is eve/better"


def test_a_removed_front_matter_is_false(copy):
    text = (copy / "README.md").read_text()
    (copy / "README.md").write_text(text.split("\n---\n", 1)[1])
    assert "README.md, front matter, model-index: FALSE: is missing" in pages(copy)
