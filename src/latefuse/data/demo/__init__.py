"""A generated kitchen catalogue in which the truth is known: what each modality shows is planted."""
