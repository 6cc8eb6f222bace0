"""From a bundle to clips: the engine, its queue, its models and their encodings."""
