"""LazyConfigs of pretraining and of the classifiers that measure it."""
