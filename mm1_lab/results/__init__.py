"""Results on disk: the ledger and its file formats under one schema version, tables (`reading`), means (`summary`)."""

from mm1_lab.results.ledger import Ledger
from mm1_lab.results.manifest import Manifest, variant_name
from mm1_lab.results.reading import curves, held_out, scores
from mm1_lab.results.schema import TrialRow
from mm1_lab.results.summary import measures
from mm1_lab.rows import ScoreRow

__all__ = ["Ledger", "Manifest", "ScoreRow", "TrialRow", "curves", "held_out", "measures", "scores", "variant_name"]
