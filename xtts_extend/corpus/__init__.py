"""Make a data set from long recordings: speech, text, alignment, clips and their review."""
