"""Who samples: our own decoding loop, or another program that is given the weights and proves that it has them."""
