"""Records to tensors: images, conversation -> ids and labels, dataset, collator, samplers."""
