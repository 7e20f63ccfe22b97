"""What lasts: phases by content, ledgers, tickets as files."""
