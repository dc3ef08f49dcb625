"""Expert-guided fine-tuning, expert training and evaluation of the demonstration models."""
