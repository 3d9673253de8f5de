"""The field's evaluation harnesses: a model plugin for lmms-eval, and data sets for its tasks and for geh.

Nothing is imported here: `lmms_eval` and `lmms_eval_models` need that package, which is none of our dependencies.
"""
