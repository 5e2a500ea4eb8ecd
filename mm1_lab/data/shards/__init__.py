"""Users' data: WebDataset tars, OBELICS-like parquet, text parquet and JSON Lines, by a `data.yaml`."""

from mm1_lab.data.shards.shards import Shards

__all__ = ["Shards"]
