"""A user's own LightningModule and data, as they are, trained by Lightning's own loop: masked, and without pickle.

Begin at `project`, which says what a project is: a module and data, which `module` and `data` ask apart from training.
`loop` trains a phase of it, from `loop.fit` on. `trainers` and `failures` serve all of them.
"""
