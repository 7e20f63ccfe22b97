"""A project's module, apart from training: what it must have, its gradients, how its networks run, what it logs."""
