"""White-box attacks on the pixels: of the safety head, of the language model, and of both at once."""
