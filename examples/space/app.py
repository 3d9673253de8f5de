"""The page of `safevlm app` as a Space, on the checkpoint beside this file or one that `SAFEVLM_MODEL` names."""

import os

from safevlm_hf.app.server import serve
from safevlm_hf.checkpoints.loading import load


model = os.environ.get("SAFEVLM_MODEL", "./checkpoint")
serve(*load(model), name=model, host="0.0.0.0", port=7860)
