"""Networks, one file a family: plain factories that draw their weights from torch's global generator."""
