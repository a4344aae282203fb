"""Looking at compiled networks: verification, reports."""
