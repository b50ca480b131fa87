"""The model that comes with the package: its name, and where it lies."""

from pathlib import Path

SHIPPED = Path("moving-shapes")
"""What it is called wherever a model is named."""
PLACE = Path(__file__).parent / "assets" / SHIPPED


def place_of(model: str | Path) -> Path:
    """The path that a model's name is, or of the model in the package: also where a folder of that name holds
    something else."""
    path = Path(model)
    meant = path == SHIPPED and not any((path / name).exists() for name in ("model_index.json", "final", "last"))
    return PLACE if meant else path
