"""Time the metrics with intervals, and the whole report, for as many images as the study's validation split.

python -m tests.benchmarks.metrics
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from ham_hf.evaluation.bootstrap import DRAWS, bootstrap_intervals, lesion_weights
from ham_hf.evaluation.metrics import compute_scores
from ham_hf.reporting.report import write_report
from tests.benchmarks import compare, header
from tests.helpers.fake_runs import PREVALENCE, make_run

IMAGES, LESIONS = 1992, 1490
OF_PEER = 20  # draws that are timed; the others take as long


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    header("numpy", "scikit-learn", "matplotlib")
    rng = np.random.default_rng(0)
    labels = rng.choice(7, IMAGES, p=PREVALENCE)
    powers = np.exp(1.5 * rng.normal(size=(IMAGES, 7)) + 2.5 * np.eye(7)[labels])
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    lesions = [str(lesion) for lesion in np.concatenate([np.arange(LESIONS), rng.integers(LESIONS, size=502)])]

    def one_at_a_time() -> float:
        weights = lesion_weights(lesions, OF_PEER, seed=0)
        started = time.perf_counter()
        for draw in weights.T:
            rows = np.repeat(np.arange(IMAGES), draw)
            compute_scores(probabilities[rows], labels[rows])
        return (time.perf_counter() - started) * DRAWS / OF_PEER

    def ours() -> None:
        compute_scores(probabilities, labels)
        bootstrap_intervals(probabilities, labels, lesions)

    compare(
        f"all metrics of {IMAGES} images with intervals of {DRAWS} draws",
        ours,
        {"one draw at a time": one_at_a_time},
        rounds,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", images=(IMAGES, 2001))
        compare(f"report, pictures and card of {IMAGES} + 2001 images", lambda: write_report(run) and None, {}, rounds)


if __name__ == "__main__":
    main()
