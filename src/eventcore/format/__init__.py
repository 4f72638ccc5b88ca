"""Byte formats: what a batch, a codec and a control record look like. No files here."""
