"""Weights that a training begins with instead of random ones: fine-tuning, or training on."""

from fer_tfdata import named_models, records
from fer_tfdata.errors import InputError
from fer_tfdata.named_models import NamedModel
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training_model import build_network


def load(config: TrainConfig, schema: records.Schema) -> NamedModel | None:
    """Returns the model that `config.start_from` names; None where it names none.

    Raises:
      InputError: it cannot be loaded, or is not of the network that is to be trained.
    """
    if not config.start_from:
        return None
    start = named_models.load_keras(config.start_from)
    received, expected = (
        [(weight.name, tuple(weight.shape)) for weight in model.weights]
        for model in (start.model, build_network(config, schema))
    )
    if received != expected:
        raise InputError(
            f"start_from={config.start_from}: expected weights of {config.model} "
            f"for images {list(schema.image_shape)} and labels={config.labels}, received those of "
            f"{start.model.name} for images {list(start.form.image_shape)} and "
            f"{len(start.form.expressions)} expressions; give the --model and the --labels, and "
            "data of the image size, that it was trained with"
        )
    return start
