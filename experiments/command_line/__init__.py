"""The command line: its options, what it shows, and how it uses memory."""
