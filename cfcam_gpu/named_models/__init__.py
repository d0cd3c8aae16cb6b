"""What names a model on the command line: loaded, with its classes, its input and its explainer."""
