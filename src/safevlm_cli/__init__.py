"""The command line, `safevlm`, a file per command: they parse, call the library, and show what came back.

It stands beside the library, because importing `safevlm_hf` registers all models, which takes seconds. A help text
must not wait for that, so commands import the library where they call it, and what needs no model through
`torch_free`.
"""

# In the order in which `safevlm --help` lists them.
from . import init, data, train, assess, chat, calibrate, evaluate, card, demo, serve, app_command, policy, verify  # isort: skip
from .app import app, main


__all__ = [
    "app",
    "main",
    "init",
    "data",
    "train",
    "assess",
    "chat",
    "calibrate",
    "evaluate",
    "card",
    "demo",
    "serve",
    "app_command",
    "policy",
    "verify",
]
