"""Hiera for detection."""
