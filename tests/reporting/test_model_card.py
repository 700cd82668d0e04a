"""The model card: what huggingface_hub reads of it, and that every number in it is the report's."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from ham_hf.config.metric_names import HEADLINE
from ham_hf.labels import DISCLAIMER, NEVUS_OR_OTHER
from ham_hf.reporting.formats import SYNTHETIC
from ham_hf.reporting.model_card import REPO_ID
from ham_hf.reporting.report import write_report
from tests.helpers.fake_runs import change_facts, make_run, same_lesion


def card_of(run: Path) -> str:
    write_report(run)
    return (run / "README.md").read_text(encoding="utf-8")


@pytest.fixture()
def run(tmp_path) -> Path:
    return make_run(tmp_path / "run")


def test_huggingface_hub_reads_back_every_headline_metric_exactly(run):
    card_of(run)
    report = json.loads((run / "report.json").read_text())
    card = ModelCard.load(run / "README.md")
    assert card.data.license == "cc-by-nc-4.0" and card.data.pipeline_tag == "image-classification"
    found = {(result.dataset_split, result.metric_type): result for result in card.data.eval_results}
    assert len(found) == 2 * len(HEADLINE)
    for (split, metric), result in found.items():
        entry = report["results"][split]["metrics"][metric]
        assert result.metric_value == entry["value"] and result.metric_args == {"interval": entry["interval"]}
        assert result.dataset_revision == report["run"]["data"]["splits"][split]["sha256"]
        assert (result.dataset_name, result.dataset_config) == ("HAM10000", "study")
        assert result.dataset_args["images"] == report["results"][split]["images"]
        assert "95 % interval" in result.metric_name


def test_every_number_of_the_card_is_from_the_report(run):
    body = card_of(run).split("\n---\n", 1)[1]
    report = json.loads((run / "report.json").read_text())
    numbers = {abs(value) for value in numbers_in(report)}
    known = {f"{value:.{digits}f}".lstrip("0") for value in numbers for digits in (0, 1, 3)}
    known |= (
        {f"{100 * value:.1f}" for value in numbers} | {f"{value:g}" for value in numbers} | {"0", "2", "15", "1000"}
    )
    seconds = report["run"]["training"]["seconds"]
    known |= {str(round(seconds) // 60), str(round(seconds) % 60), "95", "90", "7", "10", "20"}
    text = re.sub(r"```.*?```", "", body.split("## Results")[1].split("## Provenance")[0], flags=re.DOTALL)
    text = re.sub(r"`\w{64}`|SHA-256|HAM\w+|ISIC_\w+|F1|!\[.*?\)", "", text)
    shown = [number.replace(",", "") for number in re.findall(r"(?<![\w-])\d*\.?\d[\d,]*\.?\d*", text)]
    unknown = [number for number in shown if number.rstrip(".") not in known and number.lstrip("0") not in known]
    assert len(shown) > 150 and not set(unknown) - {"256"}  # 256 x 256 would be an image's size


def numbers_in(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float):
        yield value
    elif isinstance(value, str):
        yield from (float(number) for number in re.findall(r"\d+\.?\d*", value)[:20])


def test_the_code_of_the_card_compiles_and_names_the_repository(run):
    card = card_of(run)
    [code] = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    compile(code, "card", "exec")
    assert f'model="{REPO_ID}", top_k=7' in code and 'classify("photo.jpg")' in code
    assert f"ham-hf verify {REPO_ID} --data_dir path/to/HAM10000" in card
    assert DISCLAIMER in card and "always nv" in card and "{{" not in card
    change_facts(run, data__split="grouped", data__split_seed=0, data__same_lesion=same_lesion("none"))
    assert "--data_dir path/to/HAM10000 --same_lesion none\n" in card_of(run)
    change_facts(run, data__same_lesion=same_lesion("ham10000-2"))
    assert "--data_dir path/to/HAM10000\n" in card_of(run) and "same_lesion: ham10000-2" in card_of(run)


def test_the_recipe_comes_before_the_resolved_arguments(run):
    (run / "recipe.yaml").write_text("learning_rate: 1e-3\n")
    (run / "arguments.json").write_text('{"learning_rate": 0.001, "seed": 42}\n')
    card = card_of(run)
    assert card.index("<details open><summary>recipe.yaml") < card.index("<details><summary>arguments.json")


def test_the_card_of_a_patient_model_shows_how_to_call_it(run):
    change_facts(run, model__fusion="mlp")
    card = card_of(run)
    assert "trust_remote_code=True" in card and 'classify({"image": "photo.jpg", "age": 45' in card
    assert "mmbt" not in ModelCard.load(run / "README.md").data.tags
    change_facts(run, model__fusion="mmbt")
    card_of(run)
    assert "mmbt" in ModelCard.load(run / "README.md").data.tags


def test_two_classes(tmp_path):
    card = card_of(make_run(tmp_path / "two", names=NEVUS_OR_OTHER))
    assert "top_k=2" in card and "Distinguishes nevi from other pigmented skin lesions" in card
    results = ModelCard.load(tmp_path / "two" / "README.md").data.eval_results
    assert {result.dataset_args["classes"] for result in results} == {"nevus_or_other"}


def test_a_synthetic_run_is_marked_clearly(tmp_path):
    card = card_of(make_run(tmp_path / "made-up", synthetic=True))
    assert f"⚠ {SYNTHETIC}" in card
    data = ModelCard.load(tmp_path / "made-up" / "README.md").data
    assert data.license == "apache-2.0" and data.eval_results[0].dataset_name == "Synthetic lesions"


def test_no_claim_about_a_split_without_images(tmp_path):
    card_of(make_run(tmp_path / "no-test", images=(150, 0)))
    results = ModelCard.load(tmp_path / "no-test" / "README.md").data.eval_results
    assert {result.dataset_split for result in results} == {"validation"}
    assert "--allow_missing_images" in (tmp_path / "no-test" / "README.md").read_text()


def test_a_base_model_is_named_only_if_it_is_on_the_hub(run):
    card_of(run)
    assert ModelCard.load(run / "README.md").data.base_model is None
    change_facts(run, model__name="microsoft/resnet-50", model__revision="0" * 40)
    card_of(run)
    assert ModelCard.load(run / "README.md").data.base_model == ["microsoft/resnet-50"]


def test_names_of_the_user_cannot_break_the_card(run):
    change_facts(run, model__name="my|mo#del\n---\nlicense: x", data__source="a: b\n---")
    card = card_of(run)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-nc-4.0" and "my\\|mo\\#del" in card
