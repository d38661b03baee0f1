"""Language models: trained from a text, measured at lengths they were not trained for, and asked to write."""
