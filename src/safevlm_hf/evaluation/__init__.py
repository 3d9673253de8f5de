"""How good and how safe a model is: answers and verdicts, a judge, metrics, the demo's figures and its report.

Nothing heavy is imported here: import the modules by their own names.
"""
