"""What `experiments.report` is made of: numbers, sentences, tables, figures, pages."""
