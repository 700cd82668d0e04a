"""`pipeline("image-classification", model=…, trust_remote_code=True)` for the models that read the patient too."""

import torch
from transformers import Pipeline
from transformers.image_utils import load_image

KEYS = ("image", "age", "sex", "localization")
FUNCTIONS = {"softmax": lambda logits: logits.softmax(dim=0), "sigmoid": torch.sigmoid, "none": lambda logits: logits}


class ImagePatientPipeline(Pipeline):
    """`pipe({"image": "photo.jpg", "age": 45, "sex": "female", "localization": "back"})`, or a list of such.

    The image is a path, URL or PIL image; what is left out of age, sex and localization counts as unknown, and an
    image alone is one of an unknown patient. Gives `[{"label": …, "score": …}, …]`, the likeliest first.

    Args:
        top_k: how many classes to return; all by default.
        function_to_apply: from logits to scores: "softmax" (the default), "sigmoid" or "none".
        timeout: seconds to wait for an image from a URL; no limit by default.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(
        self, top_k: int | None = None, function_to_apply: str | None = None, timeout: float | None = None
    ):
        postprocess = {}
        if top_k is not None:
            postprocess["top_k"] = top_k
        if function_to_apply is not None:
            if function_to_apply not in FUNCTIONS:
                raise ValueError(f"function_to_apply is {function_to_apply!r}: expected one of {', '.join(FUNCTIONS)}")
            postprocess["function_to_apply"] = function_to_apply
        return {} if timeout is None else {"timeout": timeout}, {}, postprocess

    def preprocess(self, inputs, timeout: float | None = None) -> dict[str, torch.Tensor]:
        case = inputs if isinstance(inputs, dict) else {"image": inputs}
        if "image" not in case or not set(case) <= set(KEYS):
            raise ValueError(f"keys are {', '.join(case)}: expected image, and any of {', '.join(KEYS[1:])}")
        image = load_image(case["image"], timeout=timeout)
        return self.processor(image, *(case.get(key) for key in KEYS[1:]), return_tensors="pt")

    def _forward(self, model_inputs):
        return self.model(**model_inputs)

    def postprocess(self, model_outputs, top_k: int | None = None, function_to_apply: str = "softmax") -> list[dict]:
        scores = FUNCTIONS[function_to_apply](model_outputs.logits[0].double())
        ranked = scores.argsort(descending=True)[:top_k].tolist()
        return [{"label": self.model.config.id2label[i], "score": scores[i].item()} for i in ranked]
