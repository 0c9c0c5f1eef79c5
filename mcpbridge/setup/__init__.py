"""Setting a router up: what is answered, what would be written for it, and writing it. The prompts and the wizard use these."""
