"""The two stages of training (SafeVLM, arXiv 2405.13581, section 3.2) with the Hugging Face Trainer."""
