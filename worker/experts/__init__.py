"""Expert models the vision-language model may trigger."""
