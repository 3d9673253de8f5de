"""A vision language model from parts that others trained: EfficientNet-Lite0, a projector, and SmolLM2-135M-Instruct,
as transformers' own FastVLM. `make_base.py` is the command.

| module | its idea |
|---|---|
| `weights.py` | both parts as pinned bytes from packages |
| `assembly.py` | parts become a stock model and its processor |
| `pairs.py` | records become pictures with short conversations |
| `learning.py` | features once, the projector's first words, LoRA |
| `saving.py` | a stock checkpoint, small on disk |
| `naming.py` | "What is this?" on held-out pictures |
| `tuning.py` | fine-tuning alone, for `run_real.py` |
"""

IMAGE_SIZE = 224
GRID_SIDE = 7
NUM_POSITIONS = GRID_SIDE**2
