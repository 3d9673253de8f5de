"""How the page's controls send their values: options of gradio's events."""

PRIVATE = {"api_visibility": "private"}
"""The model's own answers and the server's own texts: nothing here is for programs."""
RAW = {**PRIVATE, "preprocess": False}
"""Values as the browser sends them: gradio's own checks answer with its internals. Ours stand in `controls.py` and
`door.py`."""
