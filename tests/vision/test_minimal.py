"""The page that shows the idea averages the weights that the lesson averages, and refreshes the same statistics."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from plcourse.vision import minimal
from plcourse.vision.averaging import SWA
from plcourse.vision.data import VisionData
from trainers import quiet_trainer


class Module(pl.LightningModule):
    """The page's network and loss, as Lightning trains it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = minimal.TwoHeads()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(image)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return minimal.loss(self, batch["image"], batch["label"], batch["mask"])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Never called; without it Lightning warns."""

    def export_inputs(self, batch: dict[str, Any]) -> tuple[Tensor]:
        return (batch["image"],)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.005)


@pytest.mark.medium
@pytest.mark.usefixtures("one_thread")
def test_the_minimal_average_is_that_of_the_lesson() -> None:
    pl.seed_everything(0, verbose=False)
    data = VisionData("digits_on_photos", val_size=50, test_size=4500, batch_size=minimal.BATCH_SIZE)
    data.setup("fit")
    module = Module()
    page = minimal.TwoHeads()
    page.load_state_dict(module.network.state_dict())
    trainer = quiet_trainer(max_epochs=4, callbacks=[SWA(start=0.4)], limit_val_batches=0)
    trainer.fit(module, datamodule=data)  # leaves the average in the model
    average = minimal.train(page, minimal.part("train", data), epochs=4, start=0.4)
    assert int(average.n_averaged) == 3
    found, expected = average.module.state_dict(), module.network.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
    live = page.state_dict()
    assert any((live[name] - found[name]).abs().max() > 1e-3 for name in found if name.endswith("weight"))
    assert any((live[name] - found[name]).abs().max() > 1e-3 for name in found if name.endswith("running_var"))
