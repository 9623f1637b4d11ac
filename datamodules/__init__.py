"""LightningDataModules for text, image and video preferences, their mixtures, and the shards they read."""
