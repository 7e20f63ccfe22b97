"""One phase of a project's training by Lightning's own loop: under masks, and resumed at any step without pickle.

`fit` wires it. `guide`, with `vigil`, `masked` and `together` are the callbacks; the others are what they keep.
"""
