"""Clips as `prepare.py` writes them: TFRecord shards with a manifest."""
