"""ham_hf: fine-tune, evaluate and publish skin lesion classifiers on HAM10000 with the Hugging Face Trainer.

For notebooks: `from ham_hf import load_ham10000, build_model, evaluate_run, predict`. Each is imported on first use,
so that `import ham_hf` and `ham-hf --help` stay fast. No module in this folder may have the name of one of them.
"""

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ham_hf.data.dataset import load_ham10000
    from ham_hf.evaluate import evaluate_run
    from ham_hf.inference.predict import predict
    from ham_hf.models.build import build_model

__version__ = "0.2.0"

# Not its notices about building a font cache, or about a home folder that is not writable
logging.getLogger("matplotlib").setLevel(logging.ERROR)

__all__ = ["build_model", "evaluate_run", "load_ham10000", "predict"]


def __getattr__(name: str):
    match name:
        case "build_model":
            from ham_hf.models.build import build_model

            return build_model
        case "evaluate_run":
            from ham_hf.evaluate import evaluate_run

            return evaluate_run
        case "load_ham10000":
            from ham_hf.data.dataset import load_ham10000

            return load_ham10000
        case "predict":
            from ham_hf.inference.predict import predict

            return predict
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
