"""Users' data, listed in a `data.yaml`: WebDataset tars, OBELICS-like parquet, text parquet and JSON Lines."""

from mm1_lab.data.shards.shards import Shards

__all__ = ["Shards"]
