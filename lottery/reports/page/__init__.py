"""The page of a report: one file that opens in a browser, without network or server."""
