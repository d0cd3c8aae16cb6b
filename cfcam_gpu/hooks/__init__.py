"""What touches the user's model: reading activations and gradients, finding layers, leaving no trace."""
