"""A network that forecasts a series."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count
from data_loader.load_series import LoadSeries


class Forecaster(BaseModel):
    """Fully connected; predicts the difference from the last value.

    Args:
        dataset: data set that defines the numbers of hours, and the mean and standard deviation.
        width: Units of the hidden layers.
        quantiles: Number of quantiles for each hour.
    """

    mean_and_std: Tensor

    def __init__(self, dataset: LoadSeries, width: Count = 128, quantiles: Count = 3) -> None:
        super().__init__()
        self.register_buffer("mean_and_std", torch.tensor(dataset.target_mean_and_std))
        self.layers = nn.Sequential(
            nn.Linear(dataset.past, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, quantiles * dataset.future),
        )

    def forward(self, input: Tensor) -> Tensor:
        """The first quantile of all hours, then the next one, shape (N, quantiles * future)."""
        mean, std = self.mean_and_std
        past = (input - mean) / std
        future = past[:, -1:] + self.layers(past)
        return future * std + mean
