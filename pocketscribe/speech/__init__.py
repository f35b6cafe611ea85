"""Speech: corpora, text units, features, augmentation and batches."""
