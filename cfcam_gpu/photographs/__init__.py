"""The command line's side: models by name, photographs, contact sheets."""
