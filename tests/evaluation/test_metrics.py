"""Metrics and bootstrap intervals: as scikit-learn computes them, or as a plain loop does."""

import time

import numpy as np
import pytest
from sklearn import metrics

from ham_hf.config.metric_names import HEADLINE
from ham_hf.evaluation.bootstrap import bootstrap_intervals, lesion_weights
from ham_hf.evaluation.hf_metric import HamMetrics
from ham_hf.evaluation.metrics import (
    CALIBRATION_BINS,
    Draws,
    calibration_bins,
    compute_scores,
    constant_scores,
    score_draws,
)
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from tests.helpers.fake_runs import some_predictions


def test_scores_match_scikit_learn():
    probabilities, labels, _ = some_predictions(images=500)
    scores, predicted = compute_scores(probabilities, labels), probabilities.argmax(axis=1)
    one_hot = np.eye(7)[labels]
    assert scores["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert scores["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predicted), abs=1e-15)
    assert scores["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), abs=1e-15)
    assert scores["macro_auroc"] == pytest.approx(
        metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"), abs=1e-15
    )
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(labels, probabilities), abs=1e-12)
    assert scores["brier"] == pytest.approx(7 * metrics.mean_squared_error(one_hot, probabilities), abs=1e-12)
    assert scores["confusion_matrix"] == metrics.confusion_matrix(labels, predicted).tolist()
    assert scores["support_nv"] == (labels == LABELS.index("nv")).sum()
    assert scores["precision_mel"] == metrics.precision_score(labels == 4, predicted == 4)


@pytest.mark.parametrize(
    ("names", "ties", "images"),
    [
        (LABELS, False, 300),
        (LABELS, True, 300),
        (LABELS, True, 40),
        (("nv", "other"), True, 60),
        (("mel", "nv"), False, 9),
    ],
)
def test_a_weighted_draw_equals_the_resampled_images(names, ties, images):
    probabilities, labels, lesions = some_predictions(images, names, ties)
    weights = lesion_weights(lesions, draws=25, seed=3)
    together = score_draws(Draws(probabilities, labels, names, weights))
    for draw in range(weights.shape[1]):
        resampled = np.repeat(np.arange(images), weights[:, draw])
        alone = compute_scores(probabilities[resampled], labels[resampled], names)
        assert set(together) == set(alone) - {"confusion_matrix"}
        for name, values in together.items():
            assert values[draw] == pytest.approx(alone[name], abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("ties", [False, True])
def test_a_weighted_draw_matches_scikit_learn(ties):
    probabilities, labels, lesions = some_predictions(images=400, ties=ties)
    weights = lesion_weights(lesions, draws=5, seed=1)
    together = score_draws(Draws(probabilities, labels, LABELS, weights))
    predicted, one_hot = probabilities.argmax(axis=1), np.eye(7)[labels]
    for draw, weight in enumerate(weights.T):
        of_draw = {name: values[draw] for name, values in together.items()}
        given = {"sample_weight": weight}
        expected = {
            "accuracy": metrics.accuracy_score(labels, predicted, **given),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted, **given),
            "macro_f1": metrics.f1_score(labels, predicted, average="macro", **given),
            "precision_mel": metrics.precision_score(labels == 4, predicted == 4, **given),
            "recall_mel": metrics.recall_score(labels == 4, predicted == 4, **given),
            "auroc_mel": metrics.roc_auc_score(labels == 4, probabilities[:, 4], **given),
            "auroc_nv": metrics.roc_auc_score(labels == 5, probabilities[:, 5], **given),
            "log_loss": metrics.log_loss(labels, probabilities, labels=range(7), **given),
            "brier": 7 * metrics.mean_squared_error(one_hot, probabilities, **given),
        }
        false_alarms, sensitivity, _ = metrics.roc_curve(
            labels == 4, probabilities[:, 4], drop_intermediate=False, **given
        )
        expected["melanoma_sensitivity_at_90_specificity"] = sensitivity[false_alarms <= 0.1 + 1e-12].max()
        assert {name: of_draw[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_calibration_error_matches_a_plain_loop():
    probabilities, labels, _ = some_predictions(images=15 * 20)  # no ties: 20 images a bin
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.array_split(np.argsort(confidence), CALIBRATION_BINS)
    gaps = [len(part) * abs(correct[part].mean() - confidence[part].mean()) for part in bins]
    assert compute_scores(probabilities, labels)["ece"] == pytest.approx(sum(gaps) / len(labels), abs=1e-12)
    shown = calibration_bins(probabilities, labels)
    expected = [[values[part].mean() for part in bins] for values in (confidence, correct)]
    assert np.allclose(shown[:2], expected, atol=1e-12) and shown[2].tolist() == [20] * 15


def test_images_of_the_same_confidence_share_a_bin():
    probabilities, labels = np.tile([0.8, 0.2], (5, 1)), np.array([0, 0, 0, 1, 1])
    assert compute_scores(probabilities, labels, ("nv", "other"))["ece"] == pytest.approx(0.2)
    confidence, accuracy, images = calibration_bins(probabilities, labels)
    assert (confidence, accuracy, images) == (pytest.approx([0.8]), pytest.approx([0.6]), [5])


def test_scores_are_computed_in_double_precision():
    probabilities, labels, _ = some_predictions()
    single = probabilities.astype(np.float32)
    assert str(compute_scores(single, labels)) == str(compute_scores(single.astype(np.float64), labels))


def test_no_score_depends_on_the_order_of_the_images():
    probabilities, labels, _ = some_predictions(images=200, ties=True)
    order = np.random.default_rng(0).permutation(200)
    shuffled = compute_scores(probabilities[order], labels[order])
    expected = compute_scores(probabilities, labels)
    assert shuffled.pop("confusion_matrix") == expected.pop("confusion_matrix")
    assert shuffled == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_sensitivity_is_the_best_at_the_specificity_asked_for():
    score = np.concatenate([np.arange(100), [88.5, 89.5, 93.5, 95.5]])  # 11, 10, 6 and 4 of 100 negatives above
    positive = np.arange(104) >= 100
    scores = compute_scores(np.stack([score, 100 - score], axis=1) / 100, np.where(positive, 0, 1), ("mel", "nv"))
    assert scores["melanoma_sensitivity_at_90_specificity"] == 3 / 4
    assert scores["melanoma_sensitivity_at_95_specificity"] == 1 / 4


def test_figures_of_an_absent_diagnosis_are_undefined_and_left_out_of_the_means():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.1, 0.6], [0.6, 0.3, 0.1]])
    scores = compute_scores(probabilities, [0, 1, 1, 0], ["bcc", "nv", "mel"])
    assert scores["support_mel"] == 0
    for name in ("precision_mel", "recall_mel", "f1_mel", "auroc_mel", "melanoma_sensitivity_at_90_specificity"):
        assert np.isnan(scores[name]), name
    assert scores["balanced_accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["macro_auroc"] == (scores["auroc_bcc"] + scores["auroc_nv"]) / 2
    assert scores["confusion_matrix"] == [[2, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_ranking_figures_of_images_of_one_diagnosis_are_undefined():
    with np.errstate(all="raise"):
        scores = compute_scores(np.array([[0.7, 0.3], [0.4, 0.6]]), [1, 1], ["nv", "mel"])
    for name in ("auroc_nv", "auroc_mel", "macro_auroc", "melanoma_sensitivity_at_90_specificity"):
        assert np.isnan(scores[name]), name


def test_one_image_of_each_diagnosis_is_enough():
    scores = compute_scores(np.eye(2), [0, 1], ["nv", "mel"])
    for name in ("precision_mel", "recall_mel", "f1_mel", "auroc_mel", "melanoma_sensitivity_at_90_specificity"):
        assert scores[name] == 1, name


def test_the_log_loss_is_of_probabilities_that_sum_to_one():
    exact = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.1, 0.6]])
    scores, rounded = (compute_scores(exact * factor, [0, 1, 2], ["bcc", "nv", "mel"]) for factor in (1, 1.0005))
    assert rounded["log_loss"] == pytest.approx(scores["log_loss"], abs=1e-12)


def test_precision_of_what_was_never_predicted_is_undefined_but_its_f1_is_zero():
    with np.errstate(all="raise"):
        scores = compute_scores(np.array([[0.9, 0.1], [0.8, 0.2]]), [0, 1], ["nv", "other"])
    assert np.isnan(scores["precision_other"])
    assert (scores["recall_other"], scores["f1_other"]) == (0, 0)


def test_two_classes_have_no_melanoma_metrics():
    probabilities, labels, lesions = some_predictions(80, ("nv", "other"))
    scores = compute_scores(probabilities, labels, ("nv", "other"))
    assert not [name for name in scores if "mel" in name]
    assert scores["auroc_nv"] == pytest.approx(scores["auroc_other"], abs=1e-12)
    assert not [name for name in bootstrap_intervals(probabilities, labels, lesions, ("nv", "other")) if "mel" in name]


def test_always_nv_scores_what_the_study_collapsed_to():
    assert constant_scores("nv", np.array([0, 1, 1]), ("nv", "other"))["accuracy"] == pytest.approx(1 / 3)
    # The validation images of the study's split
    labels = np.where(np.arange(1992) < 1339, LABELS.index("nv"), LABELS.index("bkl"))
    scores = constant_scores("nv", labels)
    assert scores["accuracy"] == pytest.approx(0.67218875502008)
    assert scores["balanced_accuracy"] == 0.5
    assert scores["macro_auroc"] == 0.5
    assert np.isnan(scores["log_loss"])
    assert set(scores) <= set(HEADLINE)


def test_a_draw_takes_lesions_with_all_their_images():
    lesions = ["a", "b", "a", "c", "b", "a"]
    weights = lesion_weights(lesions, draws=200, seed=0)
    assert (weights[0] == weights[2]).all() and (weights[0] == weights[5]).all() and (weights[1] == weights[4]).all()
    assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()
    assert len(np.unique(weights, axis=1).T) == 10  # every way to draw three of three


def test_intervals_hold_the_value_and_widen_when_images_share_lesions():
    probabilities, labels, _ = some_predictions(images=400)
    images = [str(number) for number in range(400)]
    alone = bootstrap_intervals(probabilities, labels, images)
    copied = bootstrap_intervals(np.tile(probabilities, (4, 1)), np.tile(labels, 4), images * 4)
    for name in ("accuracy", "balanced_accuracy", "macro_auroc", "log_loss"):
        value = compute_scores(probabilities, labels)[name]
        assert alone[name][0] < value < alone[name][1]
        assert copied[name] == pytest.approx(alone[name], abs=1e-9)  # four photographs of each tell nothing new
    accuracy = compute_scores(probabilities, labels)["accuracy"]
    normal = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 400)
    assert alone["accuracy"] == pytest.approx((accuracy - normal, accuracy + normal), abs=0.01)


@pytest.mark.parametrize("draws", [100, 450])  # fewer and more than are computed at a time
@pytest.mark.parametrize("decisions_only", [False, True])
def test_intervals_are_percentiles_over_all_draws(draws, decisions_only):
    probabilities, labels, lesions = some_predictions(images=80)
    given = {"draws": draws, "seed": 3, "decisions_only": decisions_only}
    intervals = bootstrap_intervals(probabilities, labels, lesions, **given)
    scores = score_draws(Draws(probabilities, labels, LABELS, lesion_weights(lesions, draws, seed=3)), decisions_only)
    scores = {name: values for name, values in scores.items() if not name.startswith("support_")}
    assert intervals.keys() == scores.keys() and ("ece" in scores) is not decisions_only
    for name, values in scores.items():
        assert intervals[name] == pytest.approx(tuple(np.nanpercentile(values, [2.5, 97.5])), abs=1e-15)


def test_intervals_repeat_and_leave_undefined_draws_out():
    probabilities, labels, lesions = some_predictions(images=60)
    labels[labels == 3] = 5
    labels[0] = 3  # one dermatofibroma: absent from about a third of the draws
    first, second = (bootstrap_intervals(probabilities, labels, lesions) for _ in range(2))
    assert str(first) == str(second)
    assert first["recall_df"] in [(0.0, 0.0), (1.0, 1.0)]
    labels[0] = 5
    assert np.isnan(bootstrap_intervals(probabilities, labels, lesions)["recall_df"]).all()


def test_intervals_of_two_thousand_images_take_less_than_two_seconds():
    probabilities, labels, lesions = some_predictions(images=2000)
    start = time.perf_counter()
    bootstrap_intervals(probabilities, labels, lesions)
    assert time.perf_counter() - start < 2


def test_the_evaluate_metric_gives_the_same_scores():
    probabilities, labels, _ = some_predictions()
    metric = HamMetrics()
    for _ in range(2):
        scores = metric.compute(predictions=probabilities, references=labels)
        assert str(scores) == str(compute_scores(probabilities, labels))
    single = metric.compute(predictions=probabilities.astype(np.float32), references=labels)
    assert single["log_loss"] == pytest.approx(scores["log_loss"], abs=1e-6)
    decided = metric.compute(predictions=probabilities.argmax(axis=1), references=labels)
    assert decided["recall_mel"] == scores["recall_mel"] and "log_loss" not in decided and "auroc_mel" not in decided
    probabilities, labels, _ = some_predictions(50, ("nv", "other"))
    of_two = HamMetrics(("nv", "other"))
    scores = of_two.compute(predictions=probabilities, references=labels)
    assert {"auroc_nv", "auroc_other", "macro_auroc"} <= set(scores)
    decided = of_two.compute(predictions=probabilities.argmax(axis=1), references=labels)
    assert decided["f1_other"] == scores["f1_other"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([np.nan, np.nan], "1 of 3 images have probabilities that are not finite.*lower learning_rate"),
        ([2.0, -3.0], "expected the model's softmax, not its logits"),
        ([2.0, -1.0], "are below 0"),
        ([0.7, 0.7], "do not sum to 1"),
    ],
)
def test_invalid_probabilities_are_refused(row, message):
    with pytest.raises(InputError, match=message):
        compute_scores(np.array([row, [0.5, 0.5], [0.5, 0.5]]), [0, 1, 1], ["nv", "other"])


def test_invalid_labels_are_refused():
    with pytest.raises(ValueError, match="labels run from 0 to 2: expected 0 to 1"):
        compute_scores(np.full((2, 2), 0.5), [0, 2], ["nv", "other"])
    with pytest.raises(ValueError, match=r"expected \(N, 2\) and \(N,\)"):
        compute_scores(np.full((2, 2), 0.5), [0, 1, 1], ["nv", "other"])
