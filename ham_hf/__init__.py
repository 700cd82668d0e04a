"""ham_hf: fine-tune, judge and publish skin-lesion classifiers on HAM10000 with the Hugging Face Trainer."""

__version__ = "0.1.0"
