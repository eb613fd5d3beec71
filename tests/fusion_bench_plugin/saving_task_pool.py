"""An evaluation that saves the model that it gets, in every process."""

from pathlib import Path

from fusion_bench.taskpool.base_pool import BaseTaskPool
from safetensors.torch import save_model


class SavingTaskPool(BaseTaskPool):
    """Saves to a file."""

    def __init__(self, model_save_path, **kwargs):
        super().__init__(**kwargs)
        self.model_save_path = model_save_path

    def evaluate(self, model):
        partial = Path(f"{self.model_save_path}.partial")
        save_model(model, partial)
        partial.rename(self.model_save_path)
        return {"loss": 0.0}
