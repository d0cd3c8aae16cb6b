"""What one gets: explanations, their parts, drawings and files."""
