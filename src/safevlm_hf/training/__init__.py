"""The two stages of training (SafeVLM, arXiv 2405.13581, section 3.2) with the Hugging Face Trainer."""

from ..extras import check_extra


check_extra("train", "accelerate", "evaluate", "peft", "sklearn")  # some of them are imported after hours
