"""The model: loading, encoding, denoising, decoding. The only importer of torch."""
