"""A preparation of images that first takes out the colour of the light; its code is copied beside the weights."""

from transformers import AutoImageProcessor, PreTrainedConfig

from ham_hf.models.color_constancy.image_processing_color_constancy import ColorConstancyImageProcessor


class _NoModel(PreTrainedConfig):
    """AutoImageProcessor knows a processor by the config of its model alone, and this one goes with any."""

    model_type = "ham_color_constancy"


AutoImageProcessor.register(_NoModel, image_processor_classes={"torchvision": ColorConstancyImageProcessor})
