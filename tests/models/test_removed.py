"""Models that ham_hf 0.1.0 wrote with removed options are refused in one sentence."""

import json

import pytest

from ham_hf.inference.load import load_classifier
from ham_hf.reporting.report import write_report
from ham_hf.system.errors import InputError
from ham_hf.training.resume import Settings, resume_settings
from tests.helpers.fake_runs import change_facts, change_json, make_run
from tests.helpers.tiny_checkpoints import make_tiny_checkpoint

GONE = "requires color_constancy, which was removed after ham_hf 0.1.0: use that version, or train it again"


def test_a_model_with_color_constancy_is_not_loaded(tmp_path):
    model = make_tiny_checkpoint("microsoft/resnet-50", tmp_path / "model")
    change_json(model / "config.json", image_processor_type="ColorConstancyImageProcessor")
    with pytest.raises(InputError, match=GONE):
        load_classifier(str(model))


def test_a_run_with_color_constancy_is_not_reported(tmp_path):
    run = make_run(tmp_path / "run", images=(12, 12))
    change_facts(run, model__color_constancy=False)
    write_report(run)
    change_facts(run, model__color_constancy=True)
    with pytest.raises(InputError, match=GONE):
        write_report(run)


def test_a_training_with_color_constancy_is_not_resumed(tmp_path):
    kept = {"fixed": {"color_constancy": True}, "noted": {}, "changes": [], "seconds": 1.0}
    state = {"stateful_callbacks": {"KeepSettings": {"args": {}, "attributes": kept}}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=GONE):
        resume_settings(tmp_path, Settings({"save_only_model": False}, {"ignore_data_skip": False}))
