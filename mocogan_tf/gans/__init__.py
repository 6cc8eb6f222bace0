"""How each model is trained: losses, training steps, and networks built from a configuration."""
