"""Eight advanced PyTorch Lightning lessons as one LightningCLI command suite."""

__version__ = "0.1.0"
