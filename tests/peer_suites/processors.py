"""Run transformers' common tests on our processors, with patients in their three encodings."""

import tempfile
import unittest
from pathlib import Path

from transformers import AutoTokenizer, BitImageProcessor
from transformers_suites.test_processing_common import ProcessorTesterMixin

from ham_hf.models.mmbt.processing_mmbt import PatientProcessor, SentenceProcessor
from tests.helpers.tiny_checkpoints import make_tiny_checkpoint

SITES = ["back", "face", "foot"]


# Tests that pass `text` or `text_kwargs`
WITH_TEXT = (
    "test_doubly_passed_kwargs",
    "test_flat_kwarg_applied_when_modality_dict_lacks_it",
    "test_kwargs_overrides_default_subprocessor_kwargs",
    "test_overlapping_text_image_kwargs_handling",
    "test_processor_with_multiple_inputs",
    "test_structured_kwargs_nested",
    "test_subprocessor_defaults_preserved_by_kwargs",
    "test_unstructured_kwargs",
)


class Patient(ProcessorTesterMixin):
    processor_class = PatientProcessor

    @classmethod
    def setUpClass(cls):
        # The suite compares a processor before and after it is saved, which adds `auto_map` to custom code
        cls.processor_class._auto_class = None
        super().setUpClass()

    def setUp(self):
        if self._testMethodName.startswith(WITH_TEXT):
            self.skipTest("not applicable: our processors read a patient, not text")

    @classmethod
    def _setup_image_processor(cls):
        return BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})

    @classmethod
    def prepare_processor_dict(cls):
        return {"encoding": cls.encoding, "sites": SITES}


class PatientCodesProcessorTest(Patient, unittest.TestCase):
    encoding = "codes"


class PatientFieldsProcessorTest(Patient, unittest.TestCase):
    encoding = "fields"


class SentenceProcessorTest(Patient, unittest.TestCase):
    processor_class = SentenceProcessor

    @classmethod
    def _setup_tokenizer(cls):
        with tempfile.TemporaryDirectory() as folder:
            return AutoTokenizer.from_pretrained(make_tiny_checkpoint("google-bert/bert-base-uncased", Path(folder)))

    @classmethod
    def prepare_processor_dict(cls):
        return {"sites": SITES}
