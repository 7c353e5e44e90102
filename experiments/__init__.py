"""Commands that train, measure and prove: the main job and what is made of it.

`job` holds the stages of the main job, `tables` what is made from its finished runs, `benchmarks` what takes time,
`proofs` what checks claims and readers. They need the extras `train` and `report`.
"""

import sys

from wsrl.errors import InputError
from wsrl.extras import require

try:
    require("absl", "train"), require("ml_collections", "train"), require("plotly", "report")
except InputError as error:
    sys.exit(f"error: {error}")  # a command is being started: one line in place of a traceback
