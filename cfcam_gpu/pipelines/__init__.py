"""Explanations in bulk: whole data sets, resumed where they stopped."""
