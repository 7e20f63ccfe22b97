"""What lasts: trained phases, ledgers, and tickets as files."""
