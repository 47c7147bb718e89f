"""What a context really costs: perplexity by position, retrieval, L-Eval, short prompts."""
