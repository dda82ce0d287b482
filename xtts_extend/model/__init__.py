"""Parts of the network: rows of new tokens, frozen rows, adapters, losses and voices."""
