"""Parts that the configs share."""
