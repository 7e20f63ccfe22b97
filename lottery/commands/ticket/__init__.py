"""Tickets as files: written from a finished round, shown, verified, trained again elsewhere."""
