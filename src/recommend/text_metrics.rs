//! Metrics of generated text: BLEU, ROUGE-L, distinct-n, USR. Knows nothing but text.
