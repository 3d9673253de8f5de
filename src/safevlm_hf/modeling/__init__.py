"""The safety layer, and one file per family of backbones. This folder's files travel with each checkpoint.

Nothing is imported here: some of the files need neither torch nor transformers.
"""
