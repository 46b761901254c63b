"""Detections of images, videos and large images, by a trained detector."""
