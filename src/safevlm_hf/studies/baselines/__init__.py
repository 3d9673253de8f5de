"""What a safe model is compared with, on the same records: other defences, and itself with parts taken out."""
