"""A project's module, asked apart from training: what it must have, its gradients, its networks, what it logs."""
