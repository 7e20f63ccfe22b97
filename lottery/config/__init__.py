"""Configuration: yaml becomes objects, checked before anything is trained."""
