"""The vision-language model: checkpoints, prompts, triggers."""
