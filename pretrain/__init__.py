"""Masked-autoencoder pretraining of the trunk that detection starts from."""
