"""Labels that a judge can give an answer: the sets of labels that figures are made of."""

REFUSAL_LABELS = ("answer", "care", "refusal")
HARM_LABELS = ("safe", "unsafe")
COMPLETION_LABELS = ("both", "only-safe", "only-effective", "neither")
PREFERENCE_LABELS = ("win", "tie", "loss")
