"""Reports: ledgers become tables, figures and verdicts."""
