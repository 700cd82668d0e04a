"""From an image and a patient (age, sex, body site) to what MMBT and the fusion model read.

The three encodings of a patient:

- "codes": age in whole years, sex (male 0, female 1) and the site's place in the alphabet, used as BERT's word ids,
  with no [CLS]: the study's custom tokenizer. It made an unknown age 0 (BERT's [PAD]) and an unknown sex male; here
  they are 121 and 2, which no known value has.
- "sentence": "45.0,male,back" through BERT's own tokenizer, as the study's Model 5; missing values read "unknown".
- "fields": age as a number (NaN where missing), sex and site as indices, 0 where unknown. The model embeds them.
"""

import math
from collections.abc import Sequence

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.processing_utils import ImagesKwargs, Unpack

SEXES = ("unknown", "female", "male")  # the index in "fields"
SEX_CODES = {"male": 0, "female": 1, "unknown": 2}
UNKNOWN_AGE_CODE = 121  # ages are 0 to 120
SENTENCE_LENGTH = 24  # tokens; HAM10000's longest sentence has 11


class PatientProcessor(ProcessorMixin):
    """An image processor, and "codes" or "fields" of the patient.

    Args:
        image_processor: prepares the images.
        encoding: "codes" or "fields".
        sites: the known body sites, without "unknown".
    """

    def __init__(self, image_processor, encoding: str = "fields", sites: Sequence[str] = (), **kwargs):
        super().__init__(image_processor, **kwargs)
        self.encoding = encoding
        self.sites = list(sites)

    @property
    def model_input_names(self) -> list[str]:
        """The names of what `__call__` returns."""
        patient = ["age", "sex", "localization"] if self.encoding == "fields" else ["input_ids", "attention_mask"]
        return [*self.image_processor.model_input_names, *patient]

    def __call__(self, images, age=None, sex=None, localization=None, **kwargs: Unpack[ImagesKwargs]) -> BatchFeature:
        """Prepare N images and their patients, or one of each.

        Args:
            images: an image or a list of them, and each of the following one value or a list as long.
            age: years, from 0 to 120; None or NaN where unknown.
            sex: "female", "male", or "unknown"; None is unknown.
            localization: one of `sites`, or "unknown"; None is unknown.
            kwargs: passed to the image processor, such as `do_resize`; `return_tensors` is "pt" by default.

        Returns:
            `pixel_values` (N, 3, H, W) and what `encode_patients` gives.

        Raises:
            ValueError: an age, sex or site that is none; or lists of other lengths than the images'.
        """
        kwargs = {"return_tensors": "pt"} | kwargs
        features = dict(self.image_processor(images, **kwargs))
        count = len(features["pixel_values"])
        patients = {"age": age, "sex": sex, "localization": localization}
        encoded = self.encode_patients(*(_column(name, values, count) for name, values in patients.items()))
        if kwargs["return_tensors"] != "pt":
            encoded = {name: tensor.numpy() for name, tensor in encoded.items()}
        return BatchFeature(features | encoded, tensor_type=kwargs["return_tensors"])

    def encode_patients(self, ages: Sequence, sexes: Sequence, localizations: Sequence) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (N, 3); "fields": `age` in years, `sex` and `localization`, each (N,)."""
        ages = [known_age(age) for age in ages]
        sexes = [known_sex(sex) for sex in sexes]
        sites = [known_site(site, self.sites) for site in localizations]
        if self.encoding == "fields":
            return {
                "age": torch.tensor([math.nan if age is None else age for age in ages]),
                "sex": torch.tensor([SEXES.index(sex) for sex in sexes]),
                "localization": torch.tensor([["unknown", *self.sites].index(site) for site in sites]),
            }
        alphabet = sorted([*self.sites, "unknown"])
        ids = [
            [UNKNOWN_AGE_CODE if age is None else int(age), SEX_CODES[sex], alphabet.index(site)]
            for age, sex, site in zip(ages, sexes, sites, strict=True)
        ]
        return {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), 3, dtype=torch.long)}


class SentenceProcessor(PatientProcessor):
    """An image processor, and the patient as a sentence through `tokenizer`."""

    def __init__(self, image_processor, tokenizer, sites: Sequence[str] = (), **kwargs):
        ProcessorMixin.__init__(self, image_processor, tokenizer, **kwargs)
        self.sites = list(sites)

    @property
    def model_input_names(self) -> list[str]:
        """The names of what `__call__` returns."""
        return [*self.image_processor.model_input_names, "input_ids", "attention_mask"]

    def encode_patients(self, ages: Sequence, sexes: Sequence, localizations: Sequence) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (N, 24)."""
        sentences = [
            f"{'unknown' if known_age(age) is None else float(age)},{known_sex(sex)},{known_site(site, self.sites)}"
            for age, sex, site in zip(ages, sexes, localizations, strict=True)
        ]
        encoded = self.tokenizer(
            sentences, padding="max_length", truncation=True, max_length=SENTENCE_LENGTH, return_tensors="pt"
        )
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def known_age(age: float | None) -> float | None:
    """The age in years, None where it is missing; ValueError for what is no age."""
    if age is None or age != age:  # NaN
        return None
    if isinstance(age, str) or not 0 <= age <= 120:
        raise ValueError(f"age is {age!r}: expected a number from 0 to 120 (years), or nothing where it is unknown")
    return float(age)


def known_sex(sex: str | None) -> str:
    """The sex as one of `SEXES`; ValueError for anything else."""
    sex = "unknown" if sex is None else sex.strip().lower()
    if sex not in SEXES:
        raise ValueError(f"sex is {sex!r}: expected female, male or unknown")
    return sex


def known_site(site: str | None, sites: Sequence[str]) -> str:
    """The site as `sites` spells it, or "unknown"; ValueError for one that the model has never seen."""
    spelling = {name.lower(): name for name in ["unknown", *sites]}
    name = "unknown" if site is None else site.strip().lower()
    if name not in spelling:
        raise ValueError(f"site is {site!r}: expected one of {', '.join(sorted(sites))}, or unknown")
    return spelling[name]


def _column(name: str, values, count: int) -> Sequence:
    """One value an image, from a list of them, a single one, or None."""
    single = values is None or isinstance(values, str | float | int)
    values = [values] if single and count == 1 else [None] * count if values is None else values
    if isinstance(values, str | float | int) or len(values) != count:
        raise ValueError(f"{name} is {values!r}: expected one value for each of the {count} images")
    return values


PatientProcessor.register_for_auto_class()
SentenceProcessor.register_for_auto_class()
