"""Fine-tune to a longer context: a recipe, texts in chunks, a loss in pieces, transformers' Trainer."""
