"""Results in a checkpoint's model card: text, `model-index` and `.eval_results/`."""
