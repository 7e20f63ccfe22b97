"""`lottery wandb`: what Weights & Biases shows of a study, made from ledgers, and sent when asked."""
