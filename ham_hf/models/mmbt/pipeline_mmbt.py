"""`pipeline("image-classification", model=…, trust_remote_code=True)` for the models that read the patient too."""

import torch
from transformers import Pipeline
from transformers.image_utils import load_image

KEYS = ("image", "age", "sex", "localization")


class ImagePatientPipeline(Pipeline):
    """`pipe({"image": "photo.jpg", "age": 45, "sex": "female", "localization": "back"})`, or a list of such.

    The image is a path, URL or PIL image; what is left out of age, sex and localization counts as unknown, and an
    image alone is one of an unknown patient. Gives `[{"label": …, "score": …}, …]`, the likeliest first, all classes
    unless `top_k` says otherwise.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, top_k: int | None = None):
        return {}, {}, {} if top_k is None else {"top_k": top_k}

    def preprocess(self, inputs) -> dict[str, torch.Tensor]:
        case = inputs if isinstance(inputs, dict) else {"image": inputs}
        if "image" not in case or not set(case) <= set(KEYS):
            raise ValueError(f"keys are {', '.join(case)}: expected image, and any of {', '.join(KEYS[1:])}")
        return self.processor(load_image(case["image"]), *(case.get(key) for key in KEYS[1:]), return_tensors="pt")

    def _forward(self, model_inputs):
        return self.model(**model_inputs)

    def postprocess(self, model_outputs, top_k: int | None = None) -> list[dict]:
        scores = model_outputs.logits[0].double().softmax(dim=0)
        ranked = scores.argsort(descending=True)[:top_k].tolist()
        return [{"label": self.model.config.id2label[i], "score": scores[i].item()} for i in ranked]
