"""What an operating point costs: bytes, multiply-adds, memory, time; and its export."""
