"""Results of analyses on disk: jobs that write them, their summaries, and reading their maps back."""
